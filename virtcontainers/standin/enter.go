package standin

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
	"kata-runtime/virtcontainers/share"
)

// enter moves this process into the container's file system: a clone of its
// root with its mounts and a fresh procfs. The host's mounts are out of reach
// afterwards. A mount whose mount point does not exist is left out; the guest
// makes mount points, so that is one that the guest keeps to itself.
func enter(s settings) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mount namespace private: %w", err)
	}
	tree := func(i int) *os.File { return os.NewFile(uintptr(firstTreeFD+i), "tree") }
	target, err := os.OpenFile(s.Directory, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Directory, err)
	}
	defer target.Close()
	if s.Empty {
		err = unix.Mount("kata-stand-in", s.Directory, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "size=4k,mode=0755")
	} else {
		err = attach(tree(0), target, s.Root.Attributes)
	}
	if err != nil {
		return fmt.Errorf("mount the root file system: %w", err)
	}
	root, err := os.OpenFile(s.Directory, unix.O_PATH|unix.O_DIRECTORY, 0) // what is mounted there now
	if err != nil {
		return fmt.Errorf("open the root file system: %w", err)
	}
	defer root.Close()
	if err := mountProc(root); err != nil {
		return err
	}
	trees := 1 // the root's
	for _, m := range s.Mounts {
		if m.Cover {
			err = cover(root, m.Destination)
		} else {
			err = attachBind(root, tree(trees), m)
			trees++
		}
		if err != nil {
			return err
		}
	}
	return mountpoint.Pivot(root)
}

func attach(tree, target *os.File, attributes share.Attributes) error {
	defer tree.Close()
	if err := share.SetAttributes(tree, attributes); err != nil {
		return err
	}
	return share.Attach(tree, target)
}

func attachBind(root, tree *os.File, bind mount) error {
	target, err := mountpoint.Open(root, bind.Destination)
	if errors.Is(err, os.ErrNotExist) {
		return tree.Close()
	}
	if err != nil {
		return errors.Join(err, tree.Close())
	}
	defer target.Close()
	err = attach(tree, target, bind.Attributes)
	if errors.Is(err, unix.ENOTDIR) { // a file on a directory, or the reverse
		return nil
	}
	return err
}

// mountProc mounts a procfs that is read-only: it has the host's sysctls, and a
// caller that copies a file into the container must not be led there by the
// container's links.
func mountProc(root *os.File) error { return mountIn(root, "/proc", "proc", unix.MS_RDONLY, "") }

// cover mounts an empty file system.
func cover(root *os.File, destination string) error {
	err := mountIn(root, destination, "tmpfs", unix.MS_RDONLY, "size=4k,mode=0755")
	if errors.Is(err, unix.ENOTDIR) { // the guest could not mount one there either
		return nil
	}
	return err
}

func mountIn(root *os.File, destination, fileSystem string, flags uintptr, data string) error {
	target, err := mountpoint.Open(root, destination)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", target.Fd())
	flags |= unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("kata-stand-in", path, fileSystem, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", fileSystem, destination, err)
	}
	return nil
}
