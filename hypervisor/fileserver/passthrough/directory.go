package passthrough

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// directory is how far a directory that the guest has open was read. The offsets are the
// host's file system's own, so that the guest can go on anywhere.
type directory struct {
	mu    sync.Mutex
	space *[entriesSize]byte // what buf is part of; none between readings
	buf   []byte             // read from the host and not told yet
	next  int64              // the offset of the first entry of buf
	read  bool
	plus  int // of how many entries the guest was told more than the names
}

// maxPlus bounds the files of a directory that the guest gets to know by reading it:
// who reads more may want their names alone.
const maxPlus = 4096

// entriesSize is how much of a directory is read at a time.
const entriesSize = 16 << 10

// spaces are those of directories that are read just now.
type spaces struct{ sync.Pool }

func (s *spaces) take(d *directory) {
	if d.space == nil {
		d.space, _ = s.Get().(*[entriesSize]byte)
	}
	if d.space == nil {
		d.space = new([entriesSize]byte)
	}
}

func (s *spaces) give(d *directory) {
	if d.space != nil {
		s.Put(d.space)
		d.space, d.buf = nil, nil
	}
}

// OpenDir implements fuse.RawFileSystem.
func (fs *FileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h, err := fs.hereByPath(in.NodeId, "")
	if err != nil {
		return status(err)
	}
	defer fs.drop(h)
	if h.node.mode != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	fd, err := fs.openRetry(func() (int, error) {
		return openAgain(h.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	})
	if err != nil {
		return status(err)
	}
	m := h.node.mount
	fh, err := fs.files.add(&file{fd: fd, id: in.NodeId, mount: m, dir: &directory{}})
	if err != nil {
		return status(err)
	}
	*out = fuse.OpenOut{Fh: fh}
	if m.cache.Data == DataAlways {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	}
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (fs *FileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	if f := fs.files.get(in.Fh, in.NodeId); f != nil {
		if f.dir != nil {
			f.dir.mu.Lock()
			fs.spaces.give(f.dir)
			f.dir.mu.Unlock()
		}
		fs.files.put(f)
	}
	fs.files.remove(in.Fh, in.NodeId)
}

// ReadDir implements fuse.RawFileSystem.
func (fs *FileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(_ *file, e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements fuse.RawFileSystem.
func (fs *FileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, err := fs.hold(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer fs.drop(dir)
	// Where the guest would look a name up again, nothing is to be had by telling of it.
	names := dir.node.mount.cache.Entries == 0
	return fs.list(in, func(f *file, e fuse.DirEntry) bool {
		place := out.AddDirLookupEntry(e)
		if place == nil {
			return false
		}
		if names || f.dir.plus >= maxPlus {
			return true
		}
		// One that is gone meanwhile is told of without attributes. What is told is
		// made here: the place is in the guest's memory.
		var entry fuse.EntryOut
		if e.Name != "." && e.Name != ".." && fs.entry(dir, e.Name, &entry) == nil {
			*place = entry
			f.dir.plus++
		}
		return true
	})
}

// list tells the entries from an offset on until one is not taken.
func (fs *FileSystem) list(in *fuse.ReadIn, tell func(*file, fuse.DirEntry) bool) fuse.Status {
	f := fs.files.get(in.Fh, in.NodeId)
	if f == nil {
		return fuse.EBADF
	}
	defer fs.files.put(f)
	if f.dir == nil {
		return fuse.ENOTDIR
	}
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	return status(fs.listFrom(f, int64(in.Offset), tell))
}

func (fs *FileSystem) listFrom(f *file, off int64, tell func(*file, fuse.DirEntry) bool) error {
	d := f.dir
	if off != d.next || off == 0 && d.read {
		if _, err := unix.Seek(f.fd, off, unix.SEEK_SET); err != nil {
			return err
		}
		d.buf, d.next = nil, off
		if off == 0 {
			d.plus = 0
		}
	}
	d.read = true
	for told := false; ; told = true {
		if len(d.buf) == 0 {
			fs.spaces.take(d)
			more, err := readEntries(f.fd, d.space[:])
			if len(more) == 0 {
				fs.spaces.give(d)
			}
			if told && len(more) == 0 {
				return nil // and an error is told when it is asked for the rest
			}
			if err != nil || len(more) == 0 {
				return err
			}
			d.buf = more
		}
		e, size, err := parseEntry(d.buf)
		if err != nil {
			return err
		}
		if e.Name == ".." && f.id == rootPlace {
			// What is above the root is nobody's business.
			e.Ino = fuse.FUSE_UNKNOWN_INO
		} else {
			e.Ino = fs.number(f.mount, e.Ino)
		}
		if !tell(f, e) {
			if !told {
				return unix.EINVAL // as getdents has it: the buffer is too small for one
			}
			return nil
		}
		d.buf = d.buf[size:]
		d.next = int64(e.Off)
	}
}

func readEntries(fd int, buf []byte) ([]byte, error) {
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Getdents(fd, buf)
		return err
	})
	if errors.Is(err, unix.ENOENT) { // the directory was removed
		return nil, nil
	}
	return buf[:max(n, 0)], err
}

// parseEntry reads one struct linux_dirent64.
func parseEntry(b []byte) (fuse.DirEntry, int, error) {
	const header = 19
	if len(b) < header {
		return fuse.DirEntry{}, 0, unix.EIO
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < header || size > len(b) {
		return fuse.DirEntry{}, 0, unix.EIO
	}
	name := b[header:size]
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	return fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(b),
		Off:  binary.NativeEndian.Uint64(b[8:]),
		Mode: uint32(b[18]) << 12,
		Name: string(name),
	}, size, nil
}
