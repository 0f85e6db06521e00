package passthrough

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// change finds a directory in which a name is to be made or removed.
func (fs *FileSystem) change(id uint64, name string) (held, error) {
	if fs.options.ReadOnly {
		return held{}, unix.EROFS
	}
	if err := checkName(name); err != nil {
		return held{}, err
	}
	return fs.hold(id)
}

// unmasked is the mode of a new object. The caller's umask has its effect unless the
// directory has a default ACL, which takes its place.
func (fs *FileSystem) unmasked(dir held, mode, umask uint32) uint32 {
	masked := mode &^ (umask & 0o777)
	if masked == mode {
		return mode
	}
	if dir.node.mount.noACL.Load() {
		return masked
	}
	_, err := unix.Getxattr(fs.procFD+itoa(dir.fd), aclDefault, nil)
	switch err {
	case nil:
		return mode
	case unix.EOPNOTSUPP:
		dir.node.mount.noACL.Store(true)
	}
	return masked
}

// make makes a new object of the caller's in a directory and lets the guest know it.
func (fs *FileSystem) make(in *fuse.InHeader, kind uint32, name string, out *fuse.EntryOut, f func(dir held) error) fuse.Status {
	if e, marked := fs.replay(in); marked {
		return status(fs.replayMake(e, in, kind, name, out))
	}
	dir, err := fs.change(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	x := fs.expectName(dir, name, unix.IN_CREATE)
	err = fs.creds.as(in.Uid, in.Gid, func() error { return f(dir) })
	if x.done(err == nil); err != nil {
		return status(err)
	}
	return status(fs.entry(dir, name, out))
}

// Mknod implements fuse.RawFileSystem.
func (fs *FileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, in.Mode&unix.S_IFMT, name, out, func(dir held) error {
		return unix.Mknodat(dir.fd, name, fs.unmasked(dir, in.Mode, in.Umask), decodeDevice(in.Rdev))
	})
}

// Mkdir implements fuse.RawFileSystem.
func (fs *FileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, unix.S_IFDIR, name, out, func(dir held) error {
		return unix.Mkdirat(dir.fd, name, fs.unmasked(dir, in.Mode, in.Umask))
	})
}

// Symlink implements fuse.RawFileSystem.
func (fs *FileSystem) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(in, unix.S_IFLNK, name, out, func(dir held) error { return unix.Symlinkat(target, dir.fd, name) })
}

// Link implements fuse.RawFileSystem.
func (fs *FileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if fs.marked(&in.InHeader) {
		return fuse.EPERM
	}
	dir, err := fs.change(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	file, err := fs.hold(in.Oldnodeid)
	if err != nil {
		return status(err)
	}
	defer fs.drop(file)
	// The link in procfs is followed once: a symbolic link is linked itself.
	x := fs.expectName(dir, name, unix.IN_CREATE)
	err = unix.Linkat(fs.proc, itoa(file.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
	if x.done(err == nil); err != nil {
		return status(err)
	}
	return status(fs.entry(dir, name, out))
}

// Unlink implements fuse.RawFileSystem.
func (fs *FileSystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.remove(in, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (fs *FileSystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fs.remove(in, name, unix.AT_REMOVEDIR)
}

func (fs *FileSystem) remove(in *fuse.InHeader, name string, flags int) fuse.Status {
	if fs.marked(in) {
		return fuse.OK
	}
	dir, err := fs.change(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	if err := fs.onPath(dir, ""); err != nil {
		return status(err)
	}
	x := fs.expectName(dir, name, unix.IN_DELETE)
	err = unix.Unlinkat(dir.fd, name, flags)
	x.done(err == nil)
	return status(err)
}

// Rename implements fuse.RawFileSystem.
func (fs *FileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if e, marked := fs.replay(&in.InHeader); marked {
		return status(fs.replayMove(e, in))
	}
	flags := in.Flags // none in the older of the two messages
	if flags&^uint32(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 {
		return fuse.EINVAL
	}
	from, err := fs.change(in.NodeId, oldName)
	if err != nil {
		return status(err)
	}
	defer fs.drop(from)
	to, err := fs.change(in.Newdir, newName)
	if err != nil {
		return status(err)
	}
	defer fs.drop(to)
	if err := errors.Join(fs.onPath(from, ""), fs.onPath(to, "")); err != nil {
		return status(err)
	}
	move := func() error { return unix.Renameat2(from.fd, oldName, to.fd, newName, uint(flags)) }
	x := fs.expectMove(from, oldName, to, newName, flags&unix.RENAME_EXCHANGE != 0)
	if flags&unix.RENAME_WHITEOUT != 0 {
		err = fs.creds.as(in.Uid, in.Gid, move)
	} else {
		err = move()
	}
	if x.done(err == nil); err != nil {
		return status(err)
	}
	fs.moved(to, newName)
	if flags&unix.RENAME_EXCHANGE != 0 {
		fs.moved(from, oldName)
	}
	return fuse.OK
}

// moved has a node that is found again by its name found by its new one.
func (fs *FileSystem) moved(dir held, name string) {
	m := dir.node.mount
	if m.handles {
		return
	}
	var st unix.Statx_t
	if err := unix.Statx(dir.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, &st); err != nil || st.Mnt_id != m.id {
		return
	}
	t := &fs.nodes
	t.mu.Lock()
	var fds []int
	if place, n := t.find(key{mount: m.index, dev: device(&st), ino: st.Ino}); n != nil {
		fds = t.setName(place, n, dir.place, name)
	}
	t.mu.Unlock()
	closeAll(fds)
}

// Create implements fuse.RawFileSystem.
func (fs *FileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if fs.marked(&in.InHeader) {
		return fuse.EPERM
	}
	dir, err := fs.change(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	flags := fs.openFlags(in.Flags)
	fd := -1
	mode := fs.unmasked(dir, in.Mode&0o7777, in.Umask)
	x := fs.expectName(dir, name, unix.IN_CREATE)
	err = fs.creds.as(in.Uid, in.Gid, func() error {
		var err error
		fd, err = fs.openRetry(func() (int, error) {
			return openAgain(dir.fd, name, flags&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, mode)
		})
		return err
	})
	x.done(err == nil)
	if errors.Is(err, unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		return status(fs.openExisting(dir, in, name, out))
	}
	if err != nil {
		return status(err)
	}
	return status(fs.created(dir, name, fd, flags, out))
}

// created makes the guest know a file that it has just made and has open as fd.
func (fs *FileSystem) created(dir held, name string, fd, flags int, out *fuse.CreateOut) error {
	node, err := fs.openRetry(func() (int, error) { return openAgain(fs.proc, itoa(fd), unix.O_PATH|unix.O_CLOEXEC, 0) })
	if err != nil {
		unix.Close(fd)
		return err
	}
	if err := fs.known(dir, name, node, &out.EntryOut); err != nil {
		unix.Close(fd)
		return err
	}
	fh, err := fs.files.add(&file{fd: fd, id: out.NodeId, mount: dir.node.mount, writes: flags&unix.O_ACCMODE != unix.O_RDONLY})
	if err != nil {
		fs.nodes.forget(out.NodeId, 1)
		return err
	}
	// There is nothing to keep, and nothing to drop.
	out.OpenOut = fuse.OpenOut{Fh: fh, OpenFlags: dir.node.mount.cache.Data.openFlags(true)}
	return nil
}

// openExisting opens what was made meanwhile, or what the guest did not know of.
func (fs *FileSystem) openExisting(dir held, in *fuse.CreateIn, name string, out *fuse.CreateOut) error {
	if err := fs.entry(dir, name, &out.EntryOut); err != nil {
		return err
	}
	id := out.NodeId
	open := fuse.OpenIn{InHeader: in.InHeader, Flags: in.Flags, Mode: in.OpenFlags}
	open.NodeId = id
	if err := fs.open(&open, &out.OpenOut); err != nil {
		fs.nodes.forget(id, 1)
		return err
	}
	return nil
}

// Tmpfile implements fuse.RawFileSystem.
func (fs *FileSystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if fs.options.ReadOnly {
		return fuse.EROFS
	}
	if fs.marked(&in.InHeader) {
		return fuse.EPERM
	}
	dir, err := fs.hold(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	if dir.node.mode != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	fd := -1
	mode := fs.unmasked(dir, in.Mode&0o7777, in.Umask)
	flags := fs.openFlags(in.Flags)&^unix.O_TRUNC | int(in.Flags)&unix.O_EXCL
	err = fs.creds.as(in.Uid, in.Gid, func() error {
		var err error
		fd, err = fs.openRetry(func() (int, error) { return openAgain(dir.fd, ".", flags|unix.O_TMPFILE, mode) })
		return err
	})
	if err != nil {
		return status(err)
	}
	return status(fs.created(dir, "", fd, flags, out))
}
