package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bind translates one bind mount.
func (t *translation) bind(field string, m *specs.Mount, mapping *IDMapping) error {
	if m.Source == "" {
		return errors.New("source: must be set for a bind mount")
	}
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(t.options.BundleDir, source)
	}
	if inMemory, err := t.memoryVolume(m, source, mapping); inMemory || err != nil {
		return err
	}
	own, err := t.guestSource(m, source)
	if err != nil {
		return fmt.Errorf("source %s: %w", source, err)
	}
	if m.Type == deviceMount {
		return nil
	}
	if !hasOption(m, "bind", "rbind") {
		m.Options = append(m.Options, m.Type)
	}
	m.Type = "bind"
	if own != "" {
		if mapping != nil {
			t.drop(field+".uidMappings", "of what is the guest's own")
		}
		m.Source = own
		return nil
	}
	b := parseBindOptions(m.Options)
	if b.shared {
		t.drop(field+".options", "shared (mounts made in the guest do not reach the host)")
	}
	alone, err := t.readOnlyAlone(b.Bind, source)
	if err != nil {
		return fmt.Errorf("source %s: %w", source, err)
	}
	if alone {
		m.Options = slices.DeleteFunc(m.Options, func(option string) bool { return option == "ro" })
	}
	b.Source, b.IDMapping = source, mapping
	t.share(m, b.Bind)
	return nil
}

// share lets the share carry what a mount shows.
func (t *translation) share(m *specs.Mount, b Bind) {
	b.Index, b.Destination = len(t.guest.Binds), m.Destination
	b.GuestSource = path.Join(t.options.SharePath, "mounts", strconv.Itoa(b.Index))
	m.Type, m.Source = "bind", b.GuestSource
	t.guest.Binds = append(t.guest.Binds, b)
}

// readOnlyAlone tells whether a bind is read-only, and what is mounted below it
// is not, or may not be that is mounted later. The guest does not see these as
// mounts of their own until somebody looks there, and then gives them the flags
// of the bind: so it must not know of this one. The host enforces it.
func (t *translation) readOnlyAlone(b Bind, source string) (bool, error) {
	if !b.ReadOnly || b.RecursiveReadOnly {
		return false, nil
	}
	if b.Follow {
		return true, nil
	}
	if !b.Recursive {
		return false, nil
	}
	resolved, err := t.host.Resolve(source)
	if err != nil {
		return false, err
	}
	return t.host.WritableBelow(resolved)
}

// guestSource decides on a bind's source: a path of the guest's own, or "" for
// one that the share carries.
//
//   - Files of the kernel, /proc and /sys, mean the guest's kernel.
//   - /dev and its file systems are the guest's. The node of a character device
//     is the guest's where that has the same device; another one cannot be
//     given. A block device is plugged in, and the mount becomes a device.
//   - Everything else is shared, so also files, sockets and /dev/shm in /dev.
func (t *translation) guestSource(m *specs.Mount, source string) (string, error) {
	resolved, err := t.host.Resolve(source)
	if err != nil {
		return "", err
	}
	switch {
	case isProcessFile(resolved):
		return "", fmt.Errorf("%s: a file of a host process is %w", resolved, ErrUnsupported)
	case below("/proc", resolved), below("/sys", resolved):
		return resolved, nil
	}
	info, err := t.host.Stat(resolved)
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeDevice != 0:
		return t.guestDeviceNode(m, resolved, info)
	case mode.IsDir() && below("/dev", resolved) && !below("/dev/shm", resolved):
		return guestDeviceDirectory(resolved)
	default:
		return "", nil
	}
}

// guestDeviceNode returns the guest's path of a device node of the host.
func (t *translation) guestDeviceNode(m *specs.Mount, node string, info fs.FileInfo) (string, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: its device number is unknown", node)
	}
	major, minor := unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
	if info.Mode()&fs.ModeCharDevice == 0 {
		t.blockDeviceMount(m, stat)
		return "", nil
	}
	if own := guestDevice(int64(major), int64(minor)); own != "" {
		return own, nil
	}
	return "", fmt.Errorf("%s: the host's character device %d:%d is %w", node, major, minor, ErrUnsupported)
}

// guestDeviceDirectory accepts directories that every kernel fills of itself.
func guestDeviceDirectory(dir string) (string, error) {
	switch dir {
	case "/dev", "/dev/pts", "/dev/mqueue", "/dev/hugepages":
		return dir, nil
	default:
		return "", fmt.Errorf("%s: a directory of devices of the host is %w", dir, ErrUnsupported)
	}
}

// isProcessFile tells whether a path without symbolic links is in the directory
// of one process in /proc.
func isProcessFile(resolved string) bool {
	rest, ok := strings.CutPrefix(resolved, "/proc/")
	if !ok {
		return false
	}
	first, _, _ := strings.Cut(rest, "/")
	return strings.Trim(first, "0123456789") == ""
}

// below tells whether a clean path is dir or in it.
func below(dir, clean string) bool {
	return clean == dir || strings.HasPrefix(clean, dir+"/")
}

// boundOptions is what the options of a bind say.
type boundOptions struct {
	Bind
	// shared: the guest's mounts would have to reach the host.
	shared bool
}

// parseBindOptions reads the options that concern the host. Later ones win, as
// in mount(8).
func parseBindOptions(options []string) boundOptions {
	var b boundOptions
	for _, option := range options {
		switch option {
		case "rbind": // for good, as with runc: CRI-O writes "rbind,rprivate,ro,bind"
			b.Recursive = true
		case "ro":
			b.ReadOnly = true
		case "rw":
			b.ReadOnly = false
		case "rro":
			b.RecursiveReadOnly = true
		case "rrw":
			b.RecursiveReadOnly = false
		case "private", "rprivate", "unbindable", "runbindable":
			b.Follow, b.shared = false, false
		case "slave", "rslave":
			b.Follow, b.shared = true, false
		case "shared", "rshared":
			b.Follow, b.shared = true, true
		}
	}
	b.ReadOnly = b.ReadOnly || b.RecursiveReadOnly
	return b
}
