package oci

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformMounts owns mounts. The guest makes what a kernel makes of itself
// (proc, tmpfs, ...); a bind's source reaches it through the share, except the
// sources that bindSource knows.
func transformMounts(t *translation) error {
	mounts, err := t.joinCgroups(t.spec().Mounts)
	if err != nil {
		return err
	}
	for i := range mounts {
		if err := t.mount(fmt.Sprintf("mounts[%d]", i), &mounts[i]); err != nil {
			return fmt.Errorf("mounts[%d] (%s): %w", i, mounts[i].Destination, err)
		}
	}
	t.spec().Mounts = slices.DeleteFunc(mounts, func(m specs.Mount) bool { return m.Type == deviceMount })
	return nil
}

func (t *translation) mount(field string, m *specs.Mount) error {
	// The specification: a relative one is relative to "/".
	m.Destination = path.Join("/", m.Destination)
	mapping, err := t.idMapping(m)
	if err != nil {
		return err
	}
	t.dropContexts(field, m)
	// mount(8)'s word for no option: a file system would not know it.
	m.Options = slices.DeleteFunc(m.Options, func(option string) bool { return option == "defaults" })
	if isBind(m) {
		return t.bind(field, m, mapping)
	}
	if m.Type == "overlay" && mapping == nil {
		t.overlay(m)
		return nil
	}
	if mapping != nil {
		return errors.New("uidMappings, gidMappings: only a bind mount can be id-mapped")
	}
	return guestFileSystem(m)
}

// overlay makes a bind of an overlay: its layers are directories of the host, which
// mounts it. The guest's mount keeps what options of any mount there are.
func (t *translation) overlay(m *specs.Mount) {
	known := mountOptions()
	layers := []string{}
	m.Options = slices.DeleteFunc(m.Options, func(option string) bool {
		if slices.Contains(known, option) {
			return false
		}
		layers = append(layers, option)
		return true
	})
	b := parseBindOptions(m.Options)
	b.Overlay, b.Source = layers, "overlay"
	m.Options = append(m.Options, "bind")
	t.share(m, b.Bind)
}

func hasOption(m *specs.Mount, options ...string) bool {
	return slices.ContainsFunc(m.Options, func(option string) bool { return slices.Contains(options, option) })
}

func isBind(m *specs.Mount) bool {
	return m.Type == "bind" || m.Type == "rbind" || hasOption(m, "bind", "rbind")
}

// dropContexts takes out SELinux contexts: a kernel without SELinux refuses
// them.
func (t *translation) dropContexts(field string, m *specs.Mount) {
	m.Options = slices.DeleteFunc(m.Options, func(option string) bool {
		name, _, _ := strings.Cut(option, "=")
		switch name {
		case "context", "fscontext", "defcontext", "rootcontext":
			t.drop(field+".options", option)
			return true
		default:
			return false
		}
	})
}

// guestFileSystem accepts the file systems that need nothing but a kernel.
func guestFileSystem(m *specs.Mount) error {
	switch m.Type {
	case "cgroup", "cgroup2":
		// The container library's name for either version.
		m.Type = "cgroup"
		return nil
	case "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "hugetlbfs", "devtmpfs", "bpf",
		"debugfs", "tracefs", "securityfs", "configfs", "fusectl", "binfmt_misc":
		return nil
	case "", "none":
		return errors.New("type: must be set for a mount that is no bind mount")
	default:
		return fmt.Errorf("type: the file system %q is %w (bind-mount it, or use one that needs no device)", m.Type, ErrUnsupported)
	}
}

// flagOptions are options of any mount, as opposed to those of a bind mount, of
// a file system, or of propagation.
func flagOptions(options []string) []string {
	var flags []string
	for _, option := range options {
		switch option {
		case "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime",
			"nodiratime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime",
			"nosymfollow", "symfollow":
			flags = append(flags, option)
		}
	}
	return flags
}
