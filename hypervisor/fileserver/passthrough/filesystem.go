package passthrough

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// FileSystem serves one directory. It implements fuse.RawFileSystem.
type FileSystem struct {
	fuse.RawFileSystem // what is not served is ENOSYS

	options Options
	log     *slog.Logger
	creds   credentials
	quick   quick
	proc    int    // this process's fd directory in procfs
	procFD  string // and its path, with a slash

	nodes table
	files files
	locks locks
	// watcher is nil where nothing is told to the guest.
	watcher *watcher
	mounts  mounts
	spaces  spaces

	began time.Time // of fs.clock

	closing   chan struct{}
	closeOnce sync.Once
	watching  sync.WaitGroup
}

var _ fuse.RawFileSystem = (*FileSystem)(nil)

// New serves root, a directory, which the caller may close afterwards. It sets the
// process's umask to 0.
func New(root *os.File, o Options) (*FileSystem, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	unix.Umask(0)
	proc, err := unix.Open(o.Proc+"/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s/fd, which a file server needs to open files again by their descriptors: %w", o.Proc, err)
	}
	fs := &FileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		options:       o,
		log:           o.Logger,
		proc:          proc,
		procFD:        o.Proc + "/fd/",
		began:         time.Now(),
		closing:       make(chan struct{}),
	}
	fs.files.limit = o.MaxOpenFiles
	fs.nodes.limit = o.MaxNodeDescriptors
	if o.Watch {
		fs.watcher = newWatcher(fs, &o)
		fs.files.fs = fs
	}
	if err := fs.start(root); err != nil {
		return nil, errors.Join(err, unix.Close(proc))
	}
	return fs, nil
}

func (o *Options) complete() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Proc == "" {
		o.Proc = "/proc/self"
	}
	if o.XattrPrefix == "" {
		o.XattrPrefix = "user.kata."
	}
	if !strings.HasPrefix(o.XattrPrefix, "user.") || !strings.HasSuffix(o.XattrPrefix, ".") || len(o.XattrPrefix) > 64 {
		return fmt.Errorf("prefix of mapped attributes %q: use one that begins with \"user.\" and ends with a dot", o.XattrPrefix)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	const others = 64 // what the server itself has open
	most := int(min(limit.Cur, 1<<20))
	if o.MaxNodeDescriptors <= 0 {
		o.MaxNodeDescriptors = most / 2
	}
	if o.MaxOpenFiles <= 0 {
		o.MaxOpenFiles = max(most-o.MaxNodeDescriptors-others, 16)
	}
	return nil
}

func (fs *FileSystem) start(root *os.File) error {
	if err := fs.creds.read(); err != nil {
		return err
	}
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s as the root of a file system: %w", root.Name(), err)
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		return errors.Join(fmt.Errorf("stat %s: %w", root.Name(), err), unix.Close(fd))
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return errors.Join(errors.New("the kernel does not tell mounts apart (STATX_MNT_ID): Linux 5.8 or later is needed"), unix.Close(fd))
	}
	fs.nodes.init(fs.options.Watch || fs.options.Cache.Paths)
	fs.locks.init()
	fs.files.init(&fs.nodes)
	fs.mounts.init()
	m := fs.addRootMount(&st, fd)
	fs.nodes.addRoot(key{mount: m.index, dev: device(&st), ino: st.Ino}, m, fd)
	fs.watchMounts()
	return nil
}

// MountOptions are those of the protocol's server that this file system counts on.
func (fs *FileSystem) MountOptions() *fuse.MountOptions {
	o := &fuse.MountOptions{
		EnableLocks:          true,
		EnableAcl:            true,
		EnableSymlinkCaching: true,
		MaxWrite:             1 << 20,
		MaxBackground:        64,
		Name:                 "kata",
		ExtraCapabilities: fuse.CAP_DONT_MASK | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT |
			fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_ASYNC_DIO |
			fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_NO_OPEN_SUPPORT,
	}
	if fs.options.Submounts {
		o.ExtraCapabilities |= fuse.CAP_SUBMOUNTS
	}
	if fs.options.Writeback {
		o.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
	}
	return o
}

// String names the file system to the protocol's server.
func (fs *FileSystem) String() string { return "kata" }

// Close forgets everything and ends what waits. No request may come afterwards.
func (fs *FileSystem) Close() error {
	fs.closeOnce.Do(func() {
		close(fs.closing)
		fs.watching.Wait()
		fs.reset()
		if fs.watcher != nil {
			fs.watcher.close()
		}
		fs.nodes.close()
		fs.mounts.close()
		unix.Close(fs.proc)
	})
	return nil
}

// OnUnmount forgets all files: for a guest that has unmounted the file system, or
// started again.
func (fs *FileSystem) OnUnmount() { fs.reset() }

func (fs *FileSystem) reset() {
	if fs.watcher != nil {
		fs.watcher.reset()
	}
	fs.locks.reset(&fs.files)
	fs.files.reset()
	fs.nodes.reset()
}

// status is the protocol's number of an error.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if e, ok := errors.AsType[unix.Errno](err); ok {
		return fuse.Status(e)
	}
	return fuse.EIO
}
