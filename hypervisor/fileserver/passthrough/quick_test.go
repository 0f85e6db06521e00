package passthrough

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOpenToRead: only what cannot wait is opened past the scheduler, and nothing for a
// while once that has taken long.
func TestOpenToRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	reference, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(reference)
	proc, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	self, now := strconv.Itoa(reference), time.Now()
	for what, test := range map[string]struct {
		m     *mount
		self  string
		flags int
		want  bool
	}{
		"a file":             {&mount{}, self, unix.O_RDONLY, true},
		"in a file server":   {&mount{remote: true}, self, unix.O_RDONLY, false},
		"to write":           {&mount{}, self, unix.O_RDWR, false},
		"to write alone":     {&mount{}, self, unix.O_WRONLY, false},
		"to truncate":        {&mount{}, self, unix.O_RDONLY | unix.O_TRUNC, false},
		"no descriptor":      {&mount{}, "999999", unix.O_RDONLY, false},
		"no name":            {&mount{}, "\x00", unix.O_RDONLY, false},
		"where it took long": {slow(now.Add(openPause)), self, unix.O_RDONLY, false},
		"and again":          {slow(now), self, unix.O_RDONLY, true},
	} {
		fd, ok := test.m.openToRead(proc, test.self, test.flags|unix.O_NONBLOCK, now)
		if ok != test.want {
			t.Errorf("%s: %v, want %v", what, ok, test.want)
		}
		if ok {
			var content [100]byte
			if n, err := unix.Read(fd, content[:]); string(content[:max(n, 0)]) != "content" {
				t.Errorf("%s: read %q, %v", what, content[:max(n, 0)], err)
			}
			closeTwin(fd)
		}
	}
	// As if it had begun that long ago.
	m := &mount{}
	fd, ok := m.openToRead(proc, self, unix.O_RDONLY|unix.O_NONBLOCK, now.Add(-2*longOpen))
	if !ok {
		t.Fatal("it is not opened")
	}
	closeTwin(fd)
	if _, ok := m.openToRead(proc, self, unix.O_RDONLY|unix.O_NONBLOCK, now); ok {
		t.Error("an open that took long was not the last one past the scheduler")
	}
}

func slow(until time.Time) *mount {
	m := &mount{}
	m.noQuickOpen.Store(until.UnixNano())
	return m
}

// TestReleaseCloses: what the guest has open is closed, whichever way it was opened.
func TestReleaseCloses(t *testing.T) {
	files := &files{}
	nodes := &table{}
	nodes.init(false)
	files.init(nodes)
	files.limit = 10
	for _, reads := range []bool{true, false} {
		for _, another := range []bool{true, false} {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			f := &file{fd: fd, reads: reads}
			if _, err := files.add(f); err != nil {
				t.Fatal(err)
			}
			f.refs.Add(1)
			files.putTwin(f, another)
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
				t.Errorf("reads %v, another %v: closed while it is used", reads, another)
			}
			files.putTwin(f, another)
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				t.Errorf("reads %v, another %v: not closed", reads, another)
			}
		}
	}
}

// Open flags whose values are other flags' on another architecture do not get through.
func TestOpenFlagsOfAnotherArchitecture(t *testing.T) {
	fs := &FileSystem{}
	const (
		armDirectory = 0o40000
		armNoFollow  = 0o100000
		armDirect    = 0o200000
		armLargeFile = 0o400000
	)
	for _, flag := range []uint32{armDirectory, armNoFollow, armDirect, armLargeFile} {
		if got := fs.openFlags(unix.O_RDWR | unix.O_APPEND | flag); got != unix.O_RDWR|unix.O_APPEND|unix.O_NONBLOCK {
			t.Errorf("flag %#o became %#o", flag, got)
		}
	}
}
