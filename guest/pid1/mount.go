package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	newRoot    = "/.root"
	cgroupRoot = "/sys/fs/cgroup"
)

type mount struct {
	fstype, target string
	flags          uintptr
	data           string
}

// mounts lists the guest's own file systems in order, below the new root.
func mounts() []mount {
	const nosuid, noexec, nodev = unix.MS_NOSUID, unix.MS_NOEXEC, unix.MS_NODEV
	return []mount{
		{"tmpfs", "/", nosuid | nodev, "mode=0755"},
		{"proc", "/proc", nosuid | noexec | nodev, ""},
		{"sysfs", "/sys", nosuid | noexec | nodev, ""},
		// A cgroup namespace is a delegation boundary: a container cannot
		// change its own limits.
		{"cgroup2", cgroupRoot, nosuid | noexec | nodev, "nsdelegate"},
		{"devtmpfs", "/dev", nosuid, "mode=0755"},
		{"devpts", "/dev/pts", nosuid | noexec, "mode=0620,ptmxmode=0666,gid=5"},
		{"tmpfs", "/dev/shm", nosuid | nodev, "mode=1777"},
		{"mqueue", "/dev/mqueue", nosuid | noexec | nodev, ""},
		{"tmpfs", "/run", nosuid | nodev, "mode=0755"},
		{"tmpfs", "/tmp", nosuid | nodev, "mode=1777"},
	}
}

// mountAll makes the new root and mounts the guest's file systems in it.
func mountAll(root string) error {
	for _, m := range mounts() {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		err := unix.Mount(m.fstype, target, m.fstype, m.flags, m.data)
		if errors.Is(err, unix.ENODEV) && m.fstype == "mqueue" {
			continue // A kernel without POSIX message queues can run most containers.
		}
		if err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, target, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(root, "dev", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link in /dev: %w", err)
		}
	}
	return nil
}

// switchRoot makes root the root of the mount namespace, in place of the
// initramfs: that one cannot be pivoted away, and containers do pivot_root.
// What the initramfs holds is deleted first, since its memory can never be
// freed afterwards.
func switchRoot(root string) error {
	for _, path := range []string{"/init", "/lib", programs} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("empty the initramfs: %w", err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root to %s: %w", root, err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// As on any distribution: containers with slave or shared propagation see
	// what is mounted in the guest after they started.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts below /: %w", err)
	}
	return nil
}

// enableControllers passes every controller of the cgroup at root on to its
// children.
func enableControllers(root string) error {
	data, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("list cgroup controllers: %w", err)
	}
	names := strings.Fields(string(data))
	if len(names) == 0 {
		return nil
	}
	line := "+" + strings.Join(names, " +")
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(line), 0); err != nil {
		return fmt.Errorf("enable cgroup controllers %q: %w", line, err)
	}
	return nil
}
