// Package mountpoint makes the mount points of a container whose root file
// system the guest may not write to, as a runtime on the host makes them.
//
// A destination may lie in what an earlier mount shows, and links on its way
// mean what they mean in the container. So the mounts are put together as the
// container will have them, in a mount namespace that ends with Make, and the
// kernel resolves every path there. Links never lead out of the root: a
// container that has the same root may be putting them there meanwhile.
package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/confined"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/osthread"
	"kata-runtime/virtcontainers/share"
)

// Mount is a mount of the container.
type Mount struct {
	// Destination is the absolute path in the container.
	Destination string
	// Source is a path of the host. Empty: the guest has the file system, and
	// the mount points in it are the guest's to make.
	Source string
	// Recursive: the mounts below Source come along.
	Recursive  bool
	Attributes share.Attributes
	// File: what the guest mounts is no directory. Ignored with a Source.
	File bool
}

// Node is a file that the container finds in its root file system, unless there
// is one of the name.
type Node struct {
	Path string // absolute, in the container
	// Mode has the type and the permissions, as for mknod(2); Device is its
	// number.
	Mode     uint32
	Device   uint64
	UID, GID int
}

// Options are what Make needs.
type Options struct {
	// Rootfs is the host's absolute path of the root file system.
	Rootfs string
	// Mounts are in their order.
	Mounts []Mount
	// Directories and Nodes are made after the mounts.
	Directories []string
	Nodes       []Node
	// UID and GID are those of the container's root: its mount points are its own.
	UID, GID int
}

// Make makes the mount points that do not exist (Linux 5.12, CAP_SYS_ADMIN).
func Make(options Options) error {
	if err := privately(func() error { return makeAll(options) }); err != nil {
		return fmt.Errorf("make mount points in the root file system %s: %w", options.Rootfs, err)
	}
	return nil
}

// privately calls a function on a thread whose mounts show nowhere else, and go some
// time after it. It begins with those of the calling thread.
func privately(f func() error) error {
	run, done, err := apart()
	if err != nil {
		return fmt.Errorf("find the mount namespace: %w", err)
	}
	defer func() { _ = done() }() // a descriptor
	return run(func() error {
		// Without CLONE_FS, a thread cannot have mounts of its own.
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("a mount namespace of its own: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make the mount namespace private: %w", err)
		}
		return f()
	})
}

// apart returns what calls a function on a thread that may change its mount
// namespace, and begins in the one that this thread is in: that may be another than
// the process's.
func apart() (run func(func() error) error, done func() error, err error) {
	mounts, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, nil, err
	}
	here, err := mounts.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, mounts.Close())
	}
	others, err := os.Stat("/proc/self/ns/mnt")
	if err != nil {
		return nil, nil, errors.Join(err, mounts.Close())
	}
	if os.SameFile(here, others) { // and the root directory stays this process's
		return osthread.Run, mounts.Close, nil
	}
	return func(f func() error) error { return namespace.WithMounts(mounts, f) }, mounts.Close, nil
}

func makeAll(options Options) error {
	sources := make([]*os.File, len(options.Mounts))
	defer func() {
		for _, tree := range sources {
			if tree != nil {
				tree.Close()
			}
		}
	}()
	for i, m := range options.Mounts { // while paths are the caller's
		if m.Source == "" {
			continue
		}
		tree, err := share.OpenTree(m.Source, m.Recursive)
		if err != nil {
			return err
		}
		sources[i] = tree
	}
	root, err := attachRoot(options.Rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	a := assembly{root: root, uid: options.UID, gid: options.GID}
	for i, m := range options.Mounts {
		if err := a.mount(m, sources[i]); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	for _, directory := range options.Directories {
		if err := a.make(directory, true); err != nil {
			return err
		}
	}
	for _, node := range options.Nodes {
		if err := a.makeNode(node); err != nil {
			return err
		}
	}
	return nil
}

// attachRoot mounts a private clone of the root file system over itself, and
// opens it: what is mounted in it shows nowhere else.
func attachRoot(rootfs string) (*os.File, error) {
	tree, err := share.OpenTree(rootfs, true)
	if err != nil {
		return nil, err
	}
	if err := attach(tree, rootfs, share.Attributes{}); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

func attach(tree *os.File, target string, attributes share.Attributes) error {
	at, err := os.OpenFile(target, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := share.SetAttributes(tree, attributes); err != nil {
		return err
	}
	return share.Attach(tree, at)
}

// assembly is the container's file system as far as it is put together.
type assembly struct {
	root     *os.File
	uid, gid int // of what is made
}

// mount makes a mount point, and mounts there what the container has: tree, or
// an empty file system in the place of the guest's.
func (a *assembly) mount(m Mount, tree *os.File) error {
	directory := !m.File
	if tree != nil {
		var err error
		if directory, err = share.IsDirectory(tree); err != nil {
			return err
		}
	}
	if err := a.make(m.Destination, directory); err != nil {
		return err
	}
	target, err := Open(a.root, m.Destination)
	if err != nil {
		return err
	}
	defer target.Close()
	at := fmt.Sprintf("/proc/self/fd/%d", target.Fd())
	switch {
	case tree != nil:
		err = attach(tree, at, m.Attributes)
	case directory:
		err = unix.Mount("kata-mount-points", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=0755")
	}
	if errors.Is(err, unix.ENOTDIR) { // a file on a directory, or the reverse: for the guest to refuse
		return nil
	}
	return err
}

// make makes what does not exist of a path: directories, and a directory or an
// empty file at its end.
func (a *assembly) make(name string, directory bool) error {
	return a.place(name, func(parent *os.File, base string) error {
		if directory {
			return a.makeDirectory(parent, base, name)
		}
		return a.makeFile(parent, base, name, Node{Mode: unix.S_IFREG | 0o644, UID: a.uid, GID: a.gid})
	})
}

func (a *assembly) makeNode(node Node) error {
	return a.place(node.Path, func(parent *os.File, base string) error {
		return a.makeFile(parent, base, node.Path, node)
	})
}

// maxLinks is how many links that lead nowhere a path may have, as in the kernel.
const maxLinks = 40

// place calls create for what a path leads to, unless that exists: with its
// directory, which is made. A link that leads nowhere is made to lead somewhere.
func (a *assembly) place(name string, create func(parent *os.File, base string) error) error {
	at := name
	for range maxLinks {
		next, err := a.walk(at, create)
		if next == "" || err != nil {
			return err
		}
		at = next
	}
	return fmt.Errorf("make %s: %w", name, unix.ELOOP)
}

// walk makes what does not exist of a path. At a link that leads nowhere it
// returns the path on which to go on. Paths are never cleaned: what ".." means
// after a link is for the kernel to find out.
func (a *assembly) walk(name string, create func(parent *os.File, base string) error) (next string, err error) {
	parent, err := Open(a.root, "/")
	if err != nil {
		return "", err
	}
	defer func() { parent.Close() }()
	elements := strings.FieldsFunc(name, func(c rune) bool { return c == '/' })
	prefix := ""
	for i, element := range elements {
		here := prefix + "/" + element
		file, err := Open(a.root, here)
		if errors.Is(err, os.ErrNotExist) {
			if target, linkErr := readlink(parent, element); linkErr == nil {
				if !path.IsAbs(target) {
					target = prefix + "/" + target
				}
				return target + "/" + strings.Join(elements[i+1:], "/"), nil
			}
			if i == len(elements)-1 {
				return "", create(parent, element)
			}
			if err = a.makeDirectory(parent, element, here); err == nil {
				file, err = Open(a.root, here)
			}
		}
		if err != nil {
			return "", err
		}
		parent.Close()
		parent, prefix = file, here
	}
	return "", nil
}

func readlink(dir *os.File, name string) (string, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buffer)
	return string(buffer[:max(n, 0)]), err
}

func (a *assembly) makeDirectory(parent *os.File, base, name string) error {
	err := unix.Mkdirat(int(parent.Fd()), base, 0o755)
	if err == nil {
		err = a.own(parent, base, a.uid, a.gid)
	}
	return describe(err, "directory", name)
}

// makeFile never opens what it makes: in a directory that somebody else writes
// to, it may be another file then.
func (a *assembly) makeFile(parent *os.File, base, name string, node Node) error {
	err := unix.Mknodat(int(parent.Fd()), base, node.Mode, int(node.Device))
	if err == nil && node.Mode&unix.S_IFMT != unix.S_IFREG {
		// Whatever the umask. A link is not followed (Linux 6.6), or not changed.
		err = unix.Fchmodat(int(parent.Fd()), base, node.Mode&0o7777, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = chmod(parent, base, node.Mode&0o7777)
		}
	}
	if err == nil {
		err = a.own(parent, base, node.UID, node.GID)
	}
	return describe(err, "file", name)
}

// chmod changes a file's mode through its descriptor, which is of no link.
func chmod(parent *os.File, base string, mode uint32) error {
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

func (*assembly) own(parent *os.File, base string, uid, gid int) error {
	if uid == 0 && gid == 0 {
		return nil
	}
	return unix.Fchownat(int(parent.Fd()), base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func describe(err error, kind, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("make the %s %s: %w (a mount point in what cannot be written must be there before)", kind, name, err)
	default:
		return fmt.Errorf("make the %s %s: %w", kind, name, err)
	}
}

// Open opens a path with O_PATH as a container would whose root is given,
// without ever leaving root: the guest can have put symbolic links in its way.
func Open(root *os.File, name string) (*os.File, error) {
	file, err := confined.Open(root, name, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s in the container: %w", name, err)
	}
	return file, nil
}
