package oci

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cgroupRoot is where the cgroups are, on a host, in a container and in the
// guest. The guest's are of version 2 always, which is one tree; version 1 has a
// tree per controller and one for systemd, in directories of a tmpfs.
const cgroupRoot = "/sys/fs/cgroup"

// joinCgroups makes one mount, of the container's own cgroups, of all those that
// show a part of them at or below cgroupRoot. It is writable when one of them is:
// a container whose first program is systemd gets the tree that systemd needs,
// and nothing more, which is in version 2 the only one.
func (t *translation) joinCgroups(mounts []specs.Mount) ([]specs.Mount, error) {
	var rest []specs.Mount
	place, parts := -1, 0
	joined := specs.Mount{Destination: cgroupRoot, Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev"}}
	writable := false
	for i, m := range mounts {
		part, err := t.cgroupPart(m)
		if err != nil {
			return nil, fmt.Errorf("mounts[%d] (%s): %w", i, m.Destination, err)
		}
		if part == noPart {
			rest = append(rest, m)
			continue
		}
		if parts++; place < 0 {
			place = len(rest)
			rest = append(rest, specs.Mount{})
		}
		if path.Join("/", m.Destination) == cgroupRoot {
			joined.Options = flagOptions(m.Options)
		}
		writable = writable || part == writablePart
	}
	if parts == 0 || parts == 1 && slices.ContainsFunc(mounts, isCgroupMount) {
		return mounts, nil
	}
	joined.Options = slices.DeleteFunc(joined.Options, func(option string) bool { return option == "ro" || option == "rw" })
	if writable {
		joined.Options = append(joined.Options, "rw")
	} else {
		joined.Options = append(joined.Options, "ro")
	}
	rest[place] = joined
	return rest, nil
}

func isCgroupMount(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" }

// cgroupPart tells what a mount shows of the container's cgroups.
type cgroupPart int

const (
	noPart cgroupPart = iota
	readOnlyPart
	writablePart
)

// cgroupPart looks at one mount. These are parts:
//
//   - a mount of cgroups;
//   - a bind of the host's, or of one of the trees of version 1, to its own place.
//     A read-only one of all of version 1 leaves the trees below writable;
//   - an empty directory, such as the volume of an image that is made for
//     systemd: there is nothing in it that the container could want to see.
func (t *translation) cgroupPart(m specs.Mount) (cgroupPart, error) {
	destination := path.Join("/", m.Destination)
	part := writablePart
	if parseBindOptions(m.Options).ReadOnly {
		part = readOnlyPart
	}
	switch {
	case !below(cgroupRoot, destination):
		return noPart, nil
	case isCgroupMount(m):
		return part, nil
	case !isBind(&m) || m.Source == "":
		return noPart, nil
	}
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(t.options.BundleDir, source)
	}
	source, err := t.host.Resolve(source)
	if err != nil {
		return noPart, fmt.Errorf("source: %w", err)
	}
	if !below(cgroupRoot, source) {
		empty, err := t.host.Empty(source)
		if err != nil || !empty {
			return noPart, err
		}
		return part, nil
	}
	if source != destination {
		return noPart, nil
	}
	directory, err := t.host.Tmpfs(cgroupRoot)
	if err != nil {
		return noPart, fmt.Errorf("find the version of the host's cgroups: %w", err)
	}
	switch version1 := directory != nil; {
	case source == cgroupRoot && version1 && (m.Type == "rbind" || parseBindOptions(m.Options).Recursive):
		return writablePart, nil
	case source == cgroupRoot || version1:
		return part, nil
	default:
		return noPart, nil
	}
}
