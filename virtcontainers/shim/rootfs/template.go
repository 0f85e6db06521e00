package rootfs

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/containerd/api/types"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/oci"
)

// Handled are the mount types and the transformations that containerd's mount
// manager (2.2 and later) is to leave to this runtime: it would have the host's
// kernel mount EROFS layers. What makes a file system in a new file, mkfs, it does
// before.
func Handled() (kinds, transforms []string) { return []string{"erofs"}, []string{"format", "mkdir"} }

// directoryOption is what the transformation mkdir acts on.
const directoryOption = "X-containerd.mkdir.path="

// template is the last mount of a list whose paths are those of earlier ones.
type template struct {
	kind    string // overlay or bind
	options []string
	source  place // of a bind mount
	// lower, upper and work are an overlay's; upper and work may be nil.
	lower       []place
	upper, work *place
	directories []directory
}

// place is a directory in a layer.
type place struct {
	layer int
	path  string
}

// directory is made in a layer.
type directory struct {
	layer     int
	directory *protocol.StorageDirectory
}

// hasTemplate tells whether a mount is for who knows where earlier ones are.
func hasTemplate(m *types.Mount) bool { return strings.HasPrefix(m.GetType(), "format/") }

// parseTemplate takes the last mount of a list apart, before which there are so many
// layers.
func parseTemplate(m *types.Mount, layers int) (*template, error) {
	kinds := strings.Split(m.GetType(), "/")
	t := &template{kind: kinds[len(kinds)-1]}
	for _, transform := range kinds[:len(kinds)-1] {
		if transform != "format" && transform != "mkdir" {
			return nil, fmt.Errorf("transformation %q is for containerd's mount manager", transform)
		}
	}
	if t.kind != "overlay" && t.kind != "bind" || m.GetTarget() != "" {
		return nil, fmt.Errorf("anything but an overlay of layers, or a part of one, is %w", oci.ErrUnsupported)
	}
	var rest []string
	for _, option := range m.GetOptions() {
		var err error
		key, value, _ := strings.Cut(option, "=")
		switch {
		case strings.HasPrefix(option, directoryOption):
			err = t.addDirectory(strings.TrimPrefix(option, directoryOption), layers)
		case t.kind == "overlay" && key == "lowerdir":
			t.lower, err = parseLower(value, layers)
		case t.kind == "overlay" && key == "upperdir":
			t.upper, err = parseWritable(value, layers)
		case t.kind == "overlay" && key == "workdir":
			t.work, err = parseWritable(value, layers)
		default:
			rest = append(rest, option)
		}
		if err != nil {
			return nil, fmt.Errorf("option %q: %w", option, err)
		}
	}
	o, err := parseOptions(rest)
	switch {
	case err != nil:
		return nil, err
	case o.uids != nil:
		return nil, fmt.Errorf("id-mapped layers on disks are %w: let containerd change the owners instead "+
			"(the pod's user namespace needs a snapshotter that does)", oci.ErrUnsupported)
	case t.kind == "bind":
		t.options = flagNames(o.flags)
		t.source, err = parsePlace(m.GetSource(), layers)
	case len(t.lower) == 0:
		err = errors.New("it has no option lowerdir")
	case (t.upper == nil) != (t.work == nil):
		err = errors.New("of the options upperdir and workdir one is missing")
	default:
		t.options = append(flagNames(o.flags), o.data...)
	}
	return t, err
}

// addDirectory notes what mkdir is told: PATH, PATH:MODE or PATH:MODE:UID:GID.
func (t *template) addDirectory(text string, layers int) error {
	match := mountPattern().FindStringSubmatch(text)
	if match == nil {
		return fmt.Errorf("a directory of the host for a root file system on disks is %w", oci.ErrUnsupported)
	}
	fields := strings.Split(match[2], ":")
	const defaultMode = 0o700 // the mount manager's
	numbers := [3]uint64{defaultMode}
	if len(fields) == 3 || len(fields) > 4 {
		return errors.New("it is not PATH, PATH:MODE or PATH:MODE:UID:GID")
	}
	for i, field := range fields[1:] {
		base := 10
		if i == 0 {
			base = 8
		}
		var err error
		if numbers[i], err = strconv.ParseUint(field, base, 32); err != nil {
			return fmt.Errorf("it is not PATH, PATH:MODE or PATH:MODE:UID:GID: %w", err)
		}
	}
	number, err := layerNumber(match[1], layers)
	if err != nil {
		return err
	}
	t.directories = append(t.directories, directory{number, &protocol.StorageDirectory{
		Path: fields[0], Mode: uint32(numbers[0]), Uid: uint32(numbers[1]), Gid: uint32(numbers[2]),
	}})
	return nil
}

// mountPattern is the mount point of an earlier mount, and a path below it.
func mountPattern() *regexp.Regexp { return regexp.MustCompile(`^\{\{ *mount +(\d+) *\}\}(.*)$`) }

// overlayPattern is the mount points of several, from the top.
func overlayPattern() *regexp.Regexp {
	return regexp.MustCompile(`^\{\{ *overlay +(\d+) +(\d+) *\}\}$`)
}

func parsePlace(text string, layers int) (place, error) {
	match := mountPattern().FindStringSubmatch(text)
	if match == nil {
		return place{}, fmt.Errorf("%q, which is in no earlier mount, is %w with layers on disks", text, oci.ErrUnsupported)
	}
	number, err := layerNumber(match[1], layers)
	return place{number, match[2]}, err
}

// parseWritable is parsePlace for what is written to.
func parseWritable(text string, layers int) (*place, error) {
	p, err := parsePlace(text, layers)
	if errors.Is(err, oci.ErrUnsupported) {
		err = fmt.Errorf("%w: the writable layer has to be a disk, too: set default_size in the section of containerd's snapshotter (io.containerd.snapshotter.v1.erofs)", err)
	}
	return &p, err
}

func parseLower(text string, layers int) ([]place, error) {
	var list []place
	for element := range strings.SplitSeq(text, ":") {
		match := overlayPattern().FindStringSubmatch(element)
		if match == nil {
			p, err := parsePlace(element, layers)
			if err != nil {
				return nil, err
			}
			list = append(list, p)
			continue
		}
		first, err := layerNumber(match[1], layers)
		if err != nil {
			return nil, err
		}
		last, err := layerNumber(match[2], layers)
		if err != nil {
			return nil, err
		}
		for number, step := first, sign(last-first); ; number += step {
			list = append(list, place{layer: number})
			if number == last {
				break
			}
		}
	}
	return list, nil
}

func sign(n int) int {
	if n < 0 {
		return -1
	}
	return 1
}

func layerNumber(text string, layers int) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < 0 || number >= layers {
		return 0, fmt.Errorf("there are %d mounts before, and none has the number %s", layers, text)
	}
	return number, nil
}

// cutDevice finds a further disk of a file system that has several.
func cutDevice(kind, option string) (path string, ok bool) {
	if kind != "erofs" {
		return "", false
	}
	return strings.CutPrefix(option, "device=")
}
