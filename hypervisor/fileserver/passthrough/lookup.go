package passthrough

import (
	"errors"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/internal/fsevents"
)

// Lookup implements fuse.RawFileSystem.
func (fs *FileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if e, marked := fs.replay(in); marked && e != nil {
		return status(fs.replayLookup(e, in, name, out))
	}
	if fs.lookupEvents(in, name, out) {
		return fuse.OK
	}
	if fs.givesUp(in, name) {
		return fuse.ENOENT
	}
	dir, err := fs.hereByPath(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	err = fs.entry(dir, name, out)
	if missing := dir.node.mount.cache.Missing; missing > 0 && errors.Is(err, unix.ENOENT) {
		*out = fuse.EntryOut{}
		out.SetEntryTimeout(missing)
		return fuse.OK
	}
	return status(err)
}

// givesUp ends a wait for a lock, if that is what the agent means by a name.
func (fs *FileSystem) givesUp(in *fuse.InHeader, name string) bool {
	if in.NodeId != rootPlace || in.Uid != 0 || !strings.HasPrefix(name, fsevents.GiveUp) {
		return false
	}
	thread, err := strconv.ParseUint(name[len(fsevents.GiveUp):], 10, 32)
	if err == nil {
		fs.locks.endWait(uint32(thread))
	}
	return err == nil
}

// entry makes the guest know what a directory has under a name.
func (fs *FileSystem) entry(dir held, name string, out *fuse.EntryOut) error {
	if err := checkName(name); err != nil {
		return err
	}
	fd, err := fs.openRetry(func() (int, error) { return fs.quick.openChild(dir.fd, name) })
	if err != nil {
		return err
	}
	return fs.known(dir, name, fd, out)
}

// known makes the guest know the file that fd, which it takes over, refers to.
func (fs *FileSystem) known(dir held, name string, fd int, out *fuse.EntryOut) error {
	var st unix.Statx_t
	if err := dir.node.mount.statChild(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	id, m, valid := fs.adopt(dir, name, fd, &st)
	fs.fillEntry(dir, id, m, &st, out)
	out.SetAttrTimeout(valid.attributes)
	if valid.briefly {
		out.SetEntryTimeout(brief)
	}
	return nil
}

func (fs *FileSystem) fillEntry(dir held, id uint64, m *mount, st *unix.Statx_t, out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeId: id}
	// Also whether a mount is still there is asked of its parent's names.
	out.SetEntryTimeout(dir.node.mount.cache.Entries)
	if m != dir.node.mount {
		if fs.options.Submounts && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			out.Flags |= fuse.ATTR_SUBMOUNT
		}
	}
	fs.fillAttr(m, st, &out.Attr)
}

// number is the inode number that the guest sees.
func (fs *FileSystem) number(m *mount, ino uint64) uint64 {
	if fs.options.Submounts || m.index == 0 {
		return ino
	}
	const bits = 48
	return ino ^ uint64(m.index)<<bits
}

func (fs *FileSystem) fillAttr(m *mount, st *unix.Statx_t, out *fuse.Attr) {
	flags := out.Flags
	*out = fuse.Attr{
		Ino:       fs.number(m, st.Ino),
		Size:      st.Size,
		Blocks:    st.Blocks,
		Atime:     uint64(st.Atime.Sec),
		Mtime:     uint64(st.Mtime.Sec),
		Ctime:     uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec,
		Mtimensec: st.Mtime.Nsec,
		Ctimensec: st.Ctime.Nsec,
		Mode:      uint32(st.Mode),
		Nlink:     st.Nlink,
		Owner:     fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev:      encodeDevice(st.Rdev_major, st.Rdev_minor),
		Blksize:   st.Blksize,
		Flags:     flags,
	}
}

// encodeDevice is the kernel's form of a device number in 32 bits.
func encodeDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func decodeDevice(dev uint32) int {
	return int(unix.Mkdev(dev&0xfff00>>8, dev&0xff|dev>>12&0xfff00))
}

// GetAttr implements fuse.RawFileSystem.
func (fs *FileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	var st unix.Statx_t
	m, err := fs.stat(in.NodeId, in.Flags()&fuse.FUSE_GETATTR_FH != 0, in.Fh(), statMask, &st)
	if err != nil {
		if fs.getGhost(in.NodeId, &out.Attr) {
			return fuse.OK
		}
		return status(err)
	}
	fs.fillAttr(m, &st, &out.Attr)
	out.SetTimeout(m.validity(&st))
	return fuse.OK
}

// stat asks for the attributes of a node, through what the guest has open where it says
// so.
func (fs *FileSystem) stat(id uint64, isOpen bool, fh uint64, mask int, st *unix.Statx_t) (*mount, error) {
	if isOpen {
		if f := fs.files.get(fh, id); f != nil {
			defer fs.files.put(f)
			return f.mount, f.mount.stat(f.fd, mask, st)
		}
	}
	h, err := fs.hold(id)
	if err != nil {
		return nil, err
	}
	defer fs.drop(h)
	return h.node.mount, h.node.mount.stat(h.fd, mask, st)
}

// Statx implements fuse.RawFileSystem.
func (fs *FileSystem) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	var st unix.Statx_t
	m, err := fs.stat(in.NodeId, in.GetattrFlags&fuse.FUSE_GETATTR_FH != 0, in.Fh, statMask|unix.STATX_BTIME, &st)
	if err != nil {
		return status(err)
	}
	st.Ino = fs.number(m, st.Ino)
	st.Mask &= unix.STATX_BASIC_STATS | unix.STATX_BTIME
	out.Statx.FromStatx(&st)
	out.SetTimeout(m.validity(&st))
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem.
func (fs *FileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if fs.marked(&in.InHeader) {
		return status(fs.replaySetAttr(in, out))
	}
	if fs.options.ReadOnly {
		return fuse.EROFS
	}
	h, err := fs.hold(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.drop(h)
	if err := fs.setAttr(h, in); err != nil {
		return status(err)
	}
	var st unix.Statx_t
	if err := h.node.mount.stat(h.fd, statMask, &st); err != nil {
		return status(err)
	}
	fs.fillAttr(h.node.mount, &st, &out.Attr)
	out.SetTimeout(h.node.mount.validity(&st))
	return fuse.OK
}

func (fs *FileSystem) setAttr(h held, in *fuse.SetAttrIn) error {
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	if hasUID || hasGID {
		// Ids that are not set are -1, which changes nothing. The kernel ends the
		// set-user-id bits and capabilities of files by itself.
		x := fs.expectChange(in.NodeId, unix.IN_ATTRIB)
		err := unix.Fchownat(h.fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH)
		if x.done(err == nil); err != nil {
			return err
		}
	}
	self := itoa(h.fd)
	if mode, ok := in.GetMode(); ok {
		if h.node.mode == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		x := fs.expectChange(in.NodeId, unix.IN_ATTRIB)
		err := unix.Fchmodat(fs.proc, self, mode, 0)
		if x.done(err == nil); err != nil {
			return err
		}
	}
	if size, ok := in.GetSize(); ok {
		if err := fs.truncate(h, in, int64(size)); err != nil {
			return err
		}
	}
	return fs.setTimes(self, in)
}

func (fs *FileSystem) truncate(h held, in *fuse.SetAttrIn, size int64) error {
	if h.node.mode != unix.S_IFREG || size < 0 {
		return unix.EINVAL
	}
	cut := func() error { return retry(func() error { return unix.Truncate(fs.procFD+itoa(h.fd), size) }) }
	if fh, ok := in.GetFh(); ok {
		if f := fs.files.get(fh, in.NodeId); f != nil {
			defer fs.files.put(f)
			cut = func() error { return retry(func() error { return unix.Ftruncate(f.fd, size) }) }
		}
	}
	x := fs.expectChange(in.NodeId, unix.IN_MODIFY)
	err := fs.creds.changed(h.fd, in.Valid&fuse.FATTR_KILL_SUIDGID != 0, cut)
	x.done(err == nil)
	return err
}

func (fs *FileSystem) setTimes(self string, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return nil
	}
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	set := func(t *unix.Timespec, given, now bool, sec uint64, nsec uint32) {
		switch {
		case now:
			t.Nsec = unix.UTIME_NOW
		case given:
			t.Sec, t.Nsec = int64(sec), int64(nsec)
		}
	}
	set(&times[0], in.Valid&fuse.FATTR_ATIME != 0, in.Valid&fuse.FATTR_ATIME_NOW != 0, in.Atime, in.Atimensec)
	set(&times[1], in.Valid&fuse.FATTR_MTIME != 0, in.Valid&fuse.FATTR_MTIME_NOW != 0, in.Mtime, in.Mtimensec)
	// The link in procfs is followed once: a symbolic link's own times are set.
	var bit uint32
	switch in.Valid & (fuse.FATTR_ATIME | fuse.FATTR_MTIME) {
	case fuse.FATTR_MTIME:
		bit = unix.IN_MODIFY // as the kernel has it
	case fuse.FATTR_ATIME | fuse.FATTR_MTIME:
		bit = unix.IN_ATTRIB
	}
	x := fs.expectChange(in.NodeId, bit)
	err := unix.UtimesNanoAt(fs.proc, self, times[:], 0)
	x.done(err == nil)
	return err
}

// StatFs implements fuse.RawFileSystem.
func (fs *FileSystem) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	h, err := fs.hold(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.drop(h)
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(h.fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize),
	}
	return fuse.OK
}

// Readlink implements fuse.RawFileSystem.
func (fs *FileSystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	h, err := fs.hold(in.NodeId)
	if err != nil {
		return nil, status(err)
	}
	defer fs.drop(h)
	if h.node.mode != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(h.fd, "", buf)
	if err != nil {
		return nil, status(err)
	}
	return buf[:n], fuse.OK
}

// Access implements fuse.RawFileSystem. The guest's kernel decides permissions.
func (fs *FileSystem) Access(_ <-chan struct{}, _ *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// Ioctl implements fuse.RawFileSystem: none reaches the host.
func (fs *FileSystem) Ioctl(_ <-chan struct{}, _ *fuse.IoctlIn, _ []byte, _ *fuse.IoctlOut, _ []byte) fuse.Status {
	return fuse.Status(unix.ENOTTY)
}
