package passthrough_test

import (
	"errors"
	"math"
	"os"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	readLock  = unix.F_RDLCK
	writeLock = unix.F_WRLCK
	noLock    = unix.F_UNLCK
)

func lockRequest(id, fh, owner uint64, kind int, start, end uint64) *fuse.LkIn {
	return &fuse.LkIn{InHeader: header(id), Fh: fh, Owner: owner, Lk: fuse.FileLock{Start: start, End: end, Typ: uint32(kind)}}
}

func flockRequest(id, fh uint64, kind int) *fuse.LkIn {
	in := lockRequest(id, fh, fh, kind, 0, math.MaxInt64)
	in.LkFlags = fuse.LK_FLOCK
	return in
}

// hostLock asks for a lock as a process of the host does.
func hostLock(t *testing.T, f *os.File, kind int16) error {
	t.Helper()
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Len: 0})
}

func lockedGuest(t *testing.T) (g *guest, id, fh uint64, host *os.File) {
	t.Helper()
	g = serveDir(t, t.TempDir(), options())
	g.file("file", "x")
	id = g.lookup("file")
	fh = g.open(id, unix.O_RDWR)
	host, err := os.OpenFile(g.dir+"/file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return g, id, fh, host
}

// TestLocks are the host's: between owners of the guest, and with the host.
func TestLocks(t *testing.T) {
	g, id, fh, host := lockedGuest(t)
	all := uint64(math.MaxInt64)
	set := func(owner uint64, kind int, start, end uint64) fuse.Status {
		return g.fs.SetLk(nil, lockRequest(id, fh, owner, kind, start, end))
	}
	g.want("lock", set(1, writeLock, 0, 9), 0)
	g.want("another owner's", set(2, writeLock, 5, 5), unix.EAGAIN)
	g.want("another owner's, elsewhere", set(2, writeLock, 10, 19), 0)
	g.want("own again", set(1, readLock, 0, 4), 0)
	g.want("shared", set(2, readLock, 0, 4), 0)
	if err := hostLock(t, host, writeLock); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the host's lock: %v, want EAGAIN", err)
	}
	var out fuse.LkOut
	g.want("ask", g.fs.GetLk(nil, lockRequest(id, fh, 1, writeLock, 12, 12), &out), 0)
	if out.Lk.Typ != writeLock || out.Lk.Start != 10 || out.Lk.End != 19 {
		t.Errorf("asked who is in the way: %+v", out.Lk)
	}
	g.want("ask", g.fs.GetLk(nil, lockRequest(id, fh, 1, writeLock, 100, all), &out), 0)
	if out.Lk.Typ != noLock {
		t.Errorf("asked for what nobody has: %+v", out.Lk)
	}
	// A process that closes any of its descriptors has no lock on the file any more.
	g.want("flush", g.fs.Flush(nil, &fuse.FlushIn{InHeader: header(id), Fh: fh, LockOwner: 1}), 0)
	g.want("what was given up", set(2, writeLock, 0, 9), 0)
	g.want("unlock in part", set(2, noLock, 0, 9), 0)
	g.want("the rest is had still", set(3, writeLock, 10, 10), unix.EAGAIN)
	g.want("unlock", set(2, noLock, 0, all), 0)
	if err := hostLock(t, host, writeLock); err != nil {
		t.Errorf("the host's lock when all is given up: %v", err)
	}
	g.want("what the host has", set(1, readLock, 0, 0), unix.EAGAIN)
	g.want("backwards", set(1, readLock, 5, 4), unix.EINVAL)
	g.want("beyond", set(1, readLock, 5, 1<<63), unix.EINVAL)
	g.want("no kind", set(1, 3, 0, 1), unix.EINVAL)
	if err := hostLock(t, host, noLock); err != nil {
		t.Fatal(err)
	}
	// An open file description's own locks end with it, without a word of their owner.
	g.want("lock", set(7, writeLock, 0, all), 0)
	g.release(id, fh)
	if err := hostLock(t, host, writeLock); err != nil {
		t.Errorf("the host's lock when the file is closed: %v", err)
	}
	if n := g.descriptors(); n > 3+1 {
		t.Errorf("%d descriptors when all is given up", n)
	}
}

// TestFlock are the open file's.
func TestFlock(t *testing.T) {
	g, id, fh, host := lockedGuest(t)
	other := g.open(id, unix.O_RDONLY)
	g.want("lock", g.fs.SetLk(nil, flockRequest(id, fh, writeLock)), 0)
	g.want("another's", g.fs.SetLk(nil, flockRequest(id, other, readLock)), unix.EAGAIN)
	if err := unix.Flock(int(host.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != unix.EAGAIN {
		t.Errorf("the host's: %v, want EAGAIN", err)
	}
	// It has nothing to do with the other kind.
	g.want("POSIX lock", g.fs.SetLk(nil, lockRequest(id, other, 1, readLock, 0, 5)), 0)
	g.release(id, fh)
	if err := unix.Flock(int(host.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		t.Errorf("the host's when the guest's is closed: %v", err)
	}
	g.want("shared", g.fs.SetLk(nil, flockRequest(id, other, readLock)), 0)
	g.want("exclusive", g.fs.SetLk(nil, flockRequest(id, other, writeLock)), unix.EAGAIN)
}

// TestLocksThatWait are had when they can be, hold up nothing else, and can be given up.
func TestLocksThatWait(t *testing.T) {
	for name, request := range map[string]func(id, fh uint64, kind int) *fuse.LkIn{
		"flock": flockRequest,
		"fcntl": func(id, fh uint64, kind int) *fuse.LkIn { return lockRequest(id, fh, fh, kind, 0, math.MaxInt64) },
	} {
		t.Run(name, func(t *testing.T) {
			g, id, fh, host := lockedGuest(t)
			other := g.open(id, unix.O_RDWR)
			wait := func(cancel <-chan struct{}) <-chan fuse.Status {
				done := make(chan fuse.Status, 1)
				in := request(id, other, writeLock)
				in.Pid = 4711
				go func() { done <- g.fs.SetLkw(cancel, in) }()
				select {
				case s := <-done:
					t.Fatalf("a lock that another has: %v", s)
				case <-time.After(20 * time.Millisecond):
				}
				return done
			}
			ends := func(what string, done <-chan fuse.Status, want unix.Errno) {
				t.Helper()
				select {
				case s := <-done:
					g.want(what, s, want)
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: still waits", what)
				}
			}
			g.want("lock", g.fs.SetLk(nil, request(id, fh, writeLock)), 0)
			cancel := make(chan struct{})
			done := wait(cancel)
			if _, s := g.getattr(id); !s.Ok() {
				t.Error("another request fails meanwhile")
			}
			close(cancel)
			ends("interrupted", done, unix.EINTR)

			done = wait(nil)
			for _, name := range []string{".kata-give-up-4712", ".kata-give-up-", ".kata-give-up-x", ".kata-give-up-4711x"} {
				_, s := g.tryLookup(root, name)
				g.want("lookup of "+name, s, unix.ENOENT)
			}
			in := header(root)
			in.Uid = 1000
			g.want("as another user", g.fs.Lookup(nil, &in, ".kata-give-up-4711", &fuse.EntryOut{}), unix.ENOENT)
			select {
			case s := <-done:
				t.Errorf("the wait is ended by another's death: %v", s)
			default:
			}
			in.Uid = 0
			g.want("the thread's death", g.fs.Lookup(nil, &in, ".kata-give-up-4711", &fuse.EntryOut{}), unix.ENOENT)
			ends("by a thread that dies", done, unix.EINTR)

			done = wait(nil)
			g.want("unlock", g.fs.SetLk(nil, request(id, fh, noLock)), 0)
			ends("given up by the guest", done, 0)
			g.want("unlock", g.fs.SetLk(nil, request(id, other, noLock)), 0)

			g.want("lock", g.fs.SetLk(nil, request(id, fh, writeLock)), 0)
			done = wait(nil)
			g.release(id, fh)
			ends("the other has closed the file", done, 0)
			g.want("unlock", g.fs.SetLk(nil, request(id, other, noLock)), 0)

			if name == "flock" {
				if err := unix.Flock(int(host.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
					t.Fatal(err)
				}
			} else if err := hostLock(t, host, writeLock); err != nil {
				t.Fatal(err)
			}
			done = wait(nil)
			host.Close()
			ends("given up by the host", done, 0)
		})
	}
}

// TestLocksBetweenMounts has a process of the guest's and the host wait for each other,
// through a kernel.
func TestLocksBetweenMounts(t *testing.T) {
	source, mnt := mounted(t, options())
	if err := os.WriteFile(source+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	open := func(dir string) *os.File {
		f, err := os.OpenFile(dir+"/file", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	host, guest := open(source), open(mnt)
	defer host.Close()
	for _, each := range []struct {
		name         string
		lock, unlock func(f *os.File) error
	}{
		{"flock", func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }, func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }},
		{"OFD", func(f *os.File) error { return hostLock(t, f, writeLock) }, func(f *os.File) error { return hostLock(t, f, noLock) }},
		{"POSIX", func(f *os.File) error {
			return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: writeLock, Len: 10})
		}, func(f *os.File) error {
			return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: noLock, Len: 10})
		}},
	} {
		for _, pair := range [][2]*os.File{{host, guest}, {guest, host}} {
			if err := each.lock(pair[0]); err != nil {
				t.Fatalf("%s: %v", each.name, err)
			}
			if err := each.lock(pair[1]); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("%s: what the other side has: %v, want EAGAIN", each.name, err)
			}
			if err := each.unlock(pair[0]); err != nil {
				t.Fatal(err)
			}
			if err := each.lock(pair[1]); err != nil {
				t.Errorf("%s: what the other side gave up: %v", each.name, err)
			}
			if err := each.unlock(pair[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Whoever dies gives up what it had.
	for _, each := range []func(f *os.File) error{
		func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) },
		func(f *os.File) error { return hostLock(t, f, writeLock) },
	} {
		again := open(mnt)
		if err := each(again); err != nil {
			t.Fatal(err)
		}
		again.Close()
		waitFor(t, "the lock of a closed file", func() bool {
			return unix.Flock(int(host.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && hostLock(t, host, writeLock) == nil
		})
		if err := unix.Flock(int(host.Fd()), unix.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		if err := hostLock(t, host, noLock); err != nil {
			t.Fatal(err)
		}
	}
	guest.Close()
}
