package share

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTree clones the mount at path, as the calling process sees it, into a
// detached tree that belongs to nobody's mount namespace (open_tree(2) with
// OPEN_TREE_CLONE; Linux 5.2, CAP_SYS_ADMIN). With recursive the mounts below
// it come along. The mounts go when the file is closed, unless they were
// attached. A symbolic link at the end of path is followed.
func OpenTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, fmt.Errorf("clone the mount at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Attributes are set on a detached tree before it is attached.
type Attributes struct {
	// ReadOnly makes the mount read-only, RecursiveReadOnly those below it too.
	ReadOnly, RecursiveReadOnly bool
	// Follow lets later mounts of the host below the source appear in the
	// tree (slave propagation); without it the tree stays as it was cloned.
	Follow bool
}

// SetAttributes applies attributes to the detached tree (mount_setattr(2);
// Linux 5.12). On the host, no device node in the tree is one, and no program
// there gains privileges: the guest writes there what it likes. In the guest,
// the flags of its own mounts decide.
func SetAttributes(tree *os.File, attributes Attributes) error {
	propagation := uint64(unix.MS_PRIVATE)
	if attributes.Follow {
		propagation = unix.MS_SLAVE
	}
	err := setAttr(tree, unix.AT_RECURSIVE, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID, Propagation: propagation,
	})
	if err == nil && (attributes.ReadOnly || attributes.RecursiveReadOnly) {
		var flags uint
		if attributes.RecursiveReadOnly {
			flags = unix.AT_RECURSIVE
		}
		err = setAttr(tree, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	return err
}

func setAttr(tree *os.File, flags uint, attr *unix.MountAttr) error {
	if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH|flags, attr); err != nil {
		return fmt.Errorf("set attributes of the mount cloned from %s: %w", tree.Name(), err)
	}
	return nil
}

// Attach mounts the detached tree on target, which the caller opened with
// O_PATH (move_mount(2)).
func Attach(tree, target *os.File) error {
	err := unix.MoveMount(int(tree.Fd()), "", int(target.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach the mount cloned from %s at %s: %w", tree.Name(), target.Name(), err)
	}
	return nil
}

// IsDirectory tells whether the root of the tree is a directory.
func IsDirectory(tree *os.File) (bool, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &stat); err != nil {
		return false, fmt.Errorf("stat the mount cloned from %s: %w", tree.Name(), err)
	}
	return stat.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}
