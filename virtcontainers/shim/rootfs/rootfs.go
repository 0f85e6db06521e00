package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/osthread"
	"kata-runtime/virtcontainers/share"
)

// ErrInvalid is wrapped by errors about a list that is none of containerd's, or that
// nobody here can mount.
var ErrInvalid = errors.New("invalid mount")

// Mount mounts the list on target, a directory, in the mount namespace of this
// process. What it names is looked up in the mount namespace host; nil: this
// process's. With an empty list, the root file system is in target already, and
// nothing happens. When it fails, nothing is mounted.
func Mount(mounts []*types.Mount, target string, host *os.File) error {
	if len(mounts) == 0 {
		return nil
	}
	tree, err := Open(mounts, target, host)
	if err != nil {
		return err
	}
	defer tree.Close()
	at, err := os.OpenFile(target, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("mount the root file system: %w", err)
	}
	defer at.Close()
	if err := share.Attach(tree, at); err != nil {
		return fmt.Errorf("mount the root file system: %w", err)
	}
	return nil
}

// Unmount lets go of what is mounted on target, with what is mounted below, in
// the mount namespace of this process. It is no error that there is nothing, or
// no target. Who still uses it keeps it until then.
func Unmount(target string) error {
	for {
		switch err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil: // there may be more in the same place
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount the root file system %s: %w", target, err)
		}
	}
}

// Open puts the list together and returns it as a detached tree, see
// share.OpenTree. Directory is an existing one, on which it is mounted
// meanwhile where nobody sees it. The list must not be empty; host is as for Mount.
func Open(mounts []*types.Mount, directory string, host *os.File) (tree *os.File, err error) {
	parsed := make([]options, len(mounts))
	for i, m := range mounts {
		parsed[i], err = check(m)
		if err == nil && i == 0 && m.GetTarget() != "" {
			err = fmt.Errorf("nothing is mounted yet in which it could be at %s", m.GetTarget())
		}
		if err != nil {
			return nil, fmt.Errorf("mount the root file system: %s: %w: %w", describe(m), ErrInvalid, err)
		}
	}
	run := osthread.Run
	if host != nil {
		run = func(f func() error) error { return namespace.WithMounts(host, f) }
	}
	err = run(func() error {
		// Without CLONE_FS, a thread cannot have mounts of its own.
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("a mount namespace for it: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make the mount namespace private: %w", err)
		}
		if err := makeScratch(directory); err != nil {
			return err
		}
		for i, m := range mounts {
			if err := mount(m, parsed[i], directory); err != nil {
				return fmt.Errorf("%s: %w", describe(m), err)
			}
		}
		if tree, err = share.OpenTree(directory, true); err != nil {
			return err
		}
		// The thread's mounts end some time after this function: until then they
		// would keep the file systems, when the tree has gone already.
		return Unmount(directory)
	})
	if err != nil {
		if tree != nil {
			tree.Close()
		}
		return nil, fmt.Errorf("mount the root file system: %w", err)
	}
	return tree, nil
}

func describe(m *types.Mount) string {
	return fmt.Sprintf("%s mount of %s", m.GetType(), m.GetSource())
}

// check takes the options of a mount apart, and refuses what nobody here can
// mount.
func check(m *types.Mount) (options, error) {
	switch kind := m.GetType(); {
	case kind == "":
		return options{}, errors.New("it has no type")
	case strings.Contains(kind, "/"):
		return options{}, errors.New("a type with a slash is for containerd's mount manager, which has not resolved it (containerd 2.2)")
	case strings.HasPrefix(kind, "fuse"):
		return options{}, errors.New("file systems of a host program (FUSE) are not supported: " +
			"set snapshotter to overlayfs, or another of kernel file systems, for this runtime")
	}
	o, err := parseOptions(m.GetOptions())
	if err != nil {
		return options{}, err
	}
	if isBind(m, o) {
		switch {
		case len(o.data) > 0:
			return options{}, fmt.Errorf("a bind mount has no options %s", strings.Join(o.data, ","))
		case o.loop:
			return options{}, errors.New("a bind mount has no option loop")
		}
	}
	return o, nil
}

func isBind(m *types.Mount, o options) bool {
	return m.GetType() == "bind" || m.GetType() == "rbind" || o.flags&unix.MS_BIND != 0
}

// mount mounts one of the list in directory. The calling thread has mounts of its
// own.
func mount(m *types.Mount, o options, directory string) error {
	target, err := open(directory, m.GetTarget())
	if err != nil {
		return err
	}
	defer target.Close()
	switch {
	case isBind(m, o):
		return bind(m, o, target)
	case m.GetType() == "overlay":
		return overlay(m, o, target)
	}
	source := m.GetSource()
	if o.loop {
		device, err := attachLoop(source, o)
		if err != nil {
			return err
		}
		defer device.Close() // mounted, it lasts as long as the mount
		source = device.Name()
	}
	if o.uids != nil {
		return mountMapped(m, o, source, target)
	}
	return mountAt(fdPath(target), m, source, o)
}

// open opens a directory below another as it is mounted by now.
func open(directory, below string) (*os.File, error) {
	root, err := os.OpenFile(directory, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil || below == "" {
		return root, err
	}
	defer root.Close()
	return mountpoint.Open(root, below)
}

// bind mounts a part of another file system.
func bind(m *types.Mount, o options, target *os.File) error {
	recursive := o.flags&unix.MS_REC != 0 || m.GetType() == "rbind"
	tree, err := share.OpenTree(m.GetSource(), recursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if attr := attributes(o.flags); attr != (unix.MountAttr{}) {
		if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("set its options: %w", err)
		}
	}
	if err := mapIDs(tree, o, recursive); err != nil {
		return err
	}
	return share.Attach(tree, target)
}

// attributes are those of mount_setattr(2) for flags of mount(2).
func attributes(flags uintptr) unix.MountAttr {
	var attr unix.MountAttr
	for _, pair := range []struct {
		flag      uintptr
		attribute uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	} {
		if flags&pair.flag != 0 {
			attr.Attr_set |= pair.attribute
		}
	}
	switch { // of these a mount has one
	case flags&unix.MS_NOATIME != 0:
		attr.Attr_clr, attr.Attr_set = unix.MOUNT_ATTR__ATIME, attr.Attr_set|unix.MOUNT_ATTR_NOATIME
	case flags&unix.MS_STRICTATIME != 0:
		attr.Attr_clr, attr.Attr_set = unix.MOUNT_ATTR__ATIME, attr.Attr_set|unix.MOUNT_ATTR_STRICTATIME
	case flags&unix.MS_RELATIME != 0:
		attr.Attr_clr = unix.MOUNT_ATTR__ATIME // and 0 is it
	}
	return attr
}

// mapIDs makes a tree that is attached nowhere yet id-mapped, if the options
// say so.
func mapIDs(tree *os.File, o options, recursive bool) error {
	if o.uids == nil {
		return nil
	}
	users, err := share.NewUserNamespace(o.uids, o.gids)
	if err != nil {
		return err
	}
	defer users.Close()
	return share.MapIDs(tree, users, recursive)
}

// mountMapped mounts a file system id-mapped, which only a mount can become that
// is attached nowhere.
func mountMapped(m *types.Mount, o options, source string, target *os.File) error {
	at, err := os.MkdirTemp(".", "")
	if err != nil {
		return err
	}
	if err := mountAt(at, m, source, o); err != nil {
		return err
	}
	tree, err := share.OpenTree(at, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := mapIDs(tree, o, false); err != nil {
		return err
	}
	return share.Attach(tree, target)
}

// mountAt calls mount(2).
func mountAt(target string, m *types.Mount, source string, o options) error {
	data := strings.Join(o.data, ",")
	if len(data) >= os.Getpagesize() { // the kernel would cut it
		return fmt.Errorf("its options are %d bytes long, more than the kernel takes", len(data))
	}
	err := unix.Mount(source, target, m.GetType(), o.flags, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the host's kernel has no file system of this type: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("with options %q: %w (the kernel's log, see dmesg, says what it refuses)", data, err)
	default:
		return fmt.Errorf("with options %q: %w", data, err)
	}
}

// makeScratch makes an empty file system, which nothing but this thread sees, the
// thread's working directory. It is below everything that is mounted on directory
// afterwards, and so no part of the tree.
func makeScratch(directory string) error {
	if err := unix.Mount("kata-rootfs", directory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("a file system to work in: %w", err)
	}
	return unix.Chdir(directory)
}

func fdPath(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }
