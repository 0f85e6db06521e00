package sockets

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// directory is a bind-mounted directory of a container.
type directory struct {
	name, source string
	root         *os.File // in the container's mounts; nil: not reachable
	wanted       []*protocol.Socket
	shown        map[string]*listener // by path
}

// show makes the sockets in a directory those that are wanted. It may be
// repeated; what it cannot do it logs, and tries again at the next change.
func (c *container) show(bind *directory) {
	wanted := map[string]*protocol.Socket{}
	for _, socket := range bind.wanted {
		wanted[socket.GetPath()] = socket
	}
	for socketPath, l := range bind.shown {
		if wanted[socketPath] != nil {
			continue
		}
		if err := c.space.run(func() error { return hide(bind.root, socketPath, l) }); err != nil {
			c.relay.log.Warn("socket is shown still", "container", c.id, "socket", socketPath, "error", err)
		}
		l.Close()
		delete(bind.shown, socketPath)
		c.sockets--
	}
	for socketPath, socket := range wanted {
		if err := c.cover(bind, socketPath, socket); err != nil {
			c.relay.log.Warn("socket is not relayed", "container", c.id, "socket", socketPath, "error", err)
		}
	}
}

// cover mounts the agent's socket over a shared one, unless it is there.
func (c *container) cover(bind *directory, socketPath string, socket *protocol.Socket) error {
	l := bind.shown[socketPath]
	if l == nil {
		var err error
		if l, err = c.listen(bind.name, socket); err != nil {
			return err
		}
		bind.shown[socketPath] = l
	} else if err := l.setOwner(socket); err != nil {
		return err
	}
	tree, err := l.tree()
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	anything, err := unix.Open(l.path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.path, err)
	}
	defer unix.Close(anything)
	return c.space.run(func() error {
		renew(bind.root, socketPath, anything)
		parent, err := openParent(bind.root, socketPath)
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		target, ours, err := openSocket(parent, path.Base(socketPath), l)
		if err != nil || ours {
			return err
		}
		defer unix.Close(target)
		err = unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("mount over %s: %w", socketPath, err)
		}
		return nil
	})
}

// tree returns a mount of the agent's socket that is nowhere yet, and that has
// nothing to do with the agent's own mounts.
func (l *listener) tree() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, l.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("clone the mount of %s: %w", l.path, err)
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set attributes of the mount of %s: %w", l.path, err)
	}
	return fd, nil
}

// hide unmounts the agent's socket, where the kernel has not done it.
func hide(root *os.File, socketPath string, l *listener) error {
	parent, err := openParent(root, socketPath)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // so the kernel has
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	target, ours, err := openSocket(parent, path.Base(socketPath), l)
	if err == nil && !ours {
		unix.Close(target)
	}
	if err != nil || !ours {
		return nil // something else is there
	}
	// The thread has a working directory of its own.
	if err := unix.Fchdir(parent); err != nil {
		return fmt.Errorf("enter the directory of %s: %w", socketPath, err)
	}
	if err := unix.Unmount(path.Base(socketPath), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", socketPath, err)
	}
	return nil
}

// renew makes the kernel ask the host what a path below root is now, component
// by component. It attempts to link something of another file system there,
// which fails in any case, but only after the name was looked up anew: the
// kernel trusts what it remembers for nothing that would be made.
func renew(root *os.File, socketPath string, something int) {
	for end := range len(socketPath) + 1 {
		if end < len(socketPath) && socketPath[end] != '/' {
			continue
		}
		parent, err := openParent(root, socketPath[:end])
		if err != nil {
			return
		}
		_ = unix.Linkat(something, "", parent, path.Base(socketPath[:end]), unix.AT_EMPTY_PATH)
		unix.Close(parent)
	}
}

// within keeps a lookup in the file system of the directory that it begins at,
// and follows no link: the container may have put some there.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openParent opens the directory that a path below root is in.
func openParent(root *os.File, socketPath string) (int, error) {
	fd, err := unix.Openat2(int(root.Fd()), path.Dir(socketPath), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: within,
	})
	if err != nil {
		return -1, fmt.Errorf("open the directory of %s: %w", socketPath, err)
	}
	return fd, nil
}

// errNoSocket says that a name is no socket of the host.
var errNoSocket = errors.New("it is no socket of the share")

// openSocket opens the shared socket of this name. When the agent's is mounted
// over it, it opens nothing and says so.
func openSocket(parent int, name string, l *listener) (fd int, ours bool, err error) {
	// The last component may be a mount point: of the agent's own mount.
	fd, err = unix.Openat2(parent, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: within &^ unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, false, fmt.Errorf("open %s: %w", name, err)
	}
	var stat, directory unix.Stat_t
	err = errors.Join(unix.Fstat(fd, &stat), unix.Fstat(parent, &directory))
	ours = stat.Dev == l.dev && stat.Ino == l.ino
	switch {
	case err != nil:
		err = fmt.Errorf("stat %s: %w", name, err)
	case ours:
	case stat.Mode&unix.S_IFMT != unix.S_IFSOCK || stat.Dev != directory.Dev:
		err = fmt.Errorf("%s: %w", name, errNoSocket)
	default:
		return fd, false, nil
	}
	unix.Close(fd)
	return -1, ours, err
}
