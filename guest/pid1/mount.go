package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// onDisk says whether the root file system is an image's: it is read-only, has
// the mount points, and containers can pivot away from it. PID 1 has mounted /dev.
func onDisk() (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return false, fmt.Errorf("find what the root file system is: %w", err)
	}
	return fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC, nil
}

// mountsOnDisk are those of mounts that an image does without.
func mountsOnDisk() []mount {
	return slices.DeleteFunc(mounts(), func(m mount) bool { return m.target == "/" || m.target == "/dev" })
}

// mountAll mounts file systems below root.
func mountAll(root string, mounts []mount) error {
	for _, m := range mounts {
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
	return nil
}

// shareMounts makes the guest's mounts as those of any distribution: containers with
// slave or shared propagation see what is mounted in the guest after they started.
func shareMounts() error {
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
