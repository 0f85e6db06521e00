package passthrough_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

// age sets a file's times, but that of its status, back: a change that follows shows.
// That of its status is waited for.
func age(t *testing.T, path string) {
	t.Helper()
	for {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		changed := time.Unix(st.Ctim.Sec, st.Ctim.Nsec)
		if time.Since(changed) > 20*time.Millisecond {
			return
		}
		<-time.After(time.Millisecond)
	}
}

// TestWhatALookupTells: attributes that come with a name serve the call that asked for
// it, and no other where they could hide a change.
func TestWhatALookupTells(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	g.file("file", "x")
	if err := os.Mkdir(g.dir+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	age(t, g.dir+"/file")
	lookup := func(name string) time.Duration {
		out, s := g.tryLookup(root, name)
		g.want("lookup of "+name, s, 0)
		if out.EntryTimeout() != 0 {
			t.Errorf("the name %s holds for %v", name, out.EntryTimeout())
		}
		return out.AttrTimeout()
	}
	getattr := func(id uint64) time.Duration {
		in := fuse.GetAttrIn{InHeader: header(id)}
		var out fuse.AttrOut
		g.want("getattr", g.fs.GetAttr(nil, &in, &out), 0)
		return out.Timeout()
	}
	const none, brief = 0, time.Nanosecond
	want := func(what string, got, want time.Duration) {
		t.Helper()
		if got != want {
			t.Errorf("%s: attributes hold for %v, want %v", what, got, want)
		}
	}
	want("a file", lookup("file"), brief)
	want("a directory", lookup("dir"), brief)
	want("a directory without a name", getattr(g.lookup("dir")), brief)
	id := g.lookup("file")
	want("a file without a name", getattr(id), none)
	fh := g.open(id, unix.O_RDONLY)
	want("a file that is open", lookup("file"), none)
	g.release(id, fh)
	want("a file that is closed", lookup("file"), brief)
	g.file("file", "y")
	want("a file that has just been changed", lookup("file"), none)
	_, fh, s := g.create(root, "new")
	g.want("create", s, 0)
	want("a new file", lookup("new"), none)
	g.release(g.lookup("new"), fh)

	uncached := serveDir(t, g.dir, passthrough.Options{Cache: passthrough.Uncached()})
	out, s := uncached.tryLookup(root, "dir")
	uncached.want("lookup", s, 0)
	want("what is not cached", out.AttrTimeout(), none)
}

// TestLocksOfWhatWasChanged: who gets a lock relies on nothing that it was told before
// somebody else changed the file.
func TestLocksOfWhatWasChanged(t *testing.T) {
	for name, lock := range map[string]func(g *guest, id, fh uint64) fuse.Status{
		"posix": func(g *guest, id, fh uint64) fuse.Status {
			return g.fs.SetLk(nil, lockRequest(id, fh, 1, writeLock, 0, 9))
		},
		"flock":   func(g *guest, id, fh uint64) fuse.Status { return g.fs.SetLk(nil, flockRequest(id, fh, readLock)) },
		"waiting": func(g *guest, id, fh uint64) fuse.Status { return g.fs.SetLkw(nil, flockRequest(id, fh, writeLock)) },
	} {
		t.Run(name, func(t *testing.T) {
			g := serveDir(t, t.TempDir(), options())
			g.file("file", "x")
			age(t, g.dir+"/file")
			before := time.Now()
			id := g.lookup("file")
			told := time.Now()
			fh := g.open(id, unix.O_RDWR)
			g.file("file", "longer")
			changed := time.Now()
			g.want("lock", lock(g, id, fh), 0)
			// Two ticks of the slowest clock are 20 ms.
			if took := time.Since(before); changed.Sub(told) < 20*time.Millisecond && took < 20*time.Millisecond {
				t.Errorf("the lock is given %v after the attributes", took)
			}
		})
	}
}

// TestSharedLocksOfWhatWasChanged: who comes second is not told sooner than the first.
func TestSharedLocksOfWhatWasChanged(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	g.file("file", "x")
	age(t, g.dir+"/file")
	before := time.Now()
	id := g.lookup("file")
	told := time.Now()
	first, second := g.open(id, unix.O_RDWR), g.open(id, unix.O_RDWR)
	g.want("a lock of what was not changed", g.fs.SetLk(nil, flockRequest(id, first, readLock)), 0)
	g.file("file", "longer")
	changed := time.Now()
	g.want("lock", g.fs.SetLk(nil, flockRequest(id, second, readLock)), 0)
	if took := time.Since(before); changed.Sub(told) < 20*time.Millisecond && took < 20*time.Millisecond {
		t.Errorf("the lock is given %v after the attributes", took)
	}
}

// TestReadingDirectories tells of files along with their names where that holds, up to a
// bound.
func TestReadingDirectories(t *testing.T) {
	const files, bound = 5000, 4096
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		cache passthrough.Cache
		want  int
	}{
		"shared":  {passthrough.Shared(), 0},
		"private": {passthrough.Private(), bound},
	} {
		t.Run(name, func(t *testing.T) {
			g := serveDir(t, dir, passthrough.Options{Cache: test.cache})
			var open fuse.OpenOut
			g.want("opendir", g.fs.OpenDir(nil, &fuse.OpenIn{InHeader: header(root)}, &open), 0)
			for range 2 { // from the beginning again
				names, told := 0, 0
				for offset := uint64(0); ; {
					buf := make([]byte, 64<<10)
					list := fuse.NewDirEntryList(buf, offset)
					in := fuse.ReadIn{InHeader: header(root), Fh: open.Fh, Offset: offset, Size: uint32(len(buf))}
					g.want("readdirplus", g.fs.ReadDirPlus(nil, &in, list), 0)
					last := offset
					for _, e := range entries(t, buf) {
						names++
						last = e.offset
						if e.node != 0 {
							told++
						}
					}
					if last == offset {
						break
					}
					offset = last
				}
				if names != files+2 || told != test.want {
					t.Errorf("%d names and %d files, want %d and %d", names, told, files+2, test.want)
				}
			}
			g.fs.ReleaseDir(&fuse.ReleaseIn{InHeader: header(root), Fh: open.Fh})
		})
	}
}

type plusEntry struct{ node, offset uint64 }

// entries takes a reply to READDIRPLUS apart, as linux/fuse.h has it.
func entries(t *testing.T, buf []byte) (all []plusEntry) {
	t.Helper()
	const entrySize, headSize = 128, 24
	for len(buf) >= entrySize+headSize {
		e := plusEntry{node: binary.NativeEndian.Uint64(buf), offset: binary.NativeEndian.Uint64(buf[entrySize+8:])}
		length := int(binary.NativeEndian.Uint32(buf[entrySize+16:]))
		if length == 0 {
			break
		}
		all = append(all, e)
		buf = buf[entrySize+(headSize+length+7)&^7:]
	}
	return all
}
