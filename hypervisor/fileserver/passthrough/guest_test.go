package passthrough_test

import (
	"os"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

// guest asks a file system without a kernel in between.
type guest struct {
	t   testing.TB
	fs  *passthrough.FileSystem
	dir string // what is served
}

func serveDir(t testing.TB, dir string, o passthrough.Options) *guest {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	fs, err := passthrough.New(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return &guest{t: t, fs: fs, dir: dir}
}

func header(id uint64) fuse.InHeader {
	return fuse.InHeader{NodeId: id, Caller: fuse.Caller{Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}}}
}

func (g *guest) tryLookup(dir uint64, name string) (fuse.EntryOut, fuse.Status) {
	in := header(dir)
	var out fuse.EntryOut
	s := g.fs.Lookup(nil, &in, name, &out)
	return out, s
}

// lookup walks a path from the root.
func (g *guest) lookup(path string) uint64 {
	g.t.Helper()
	id := uint64(fuse.FUSE_ROOT_ID)
	for name := range strings.SplitSeq(path, "/") {
		out, s := g.tryLookup(id, name)
		if !s.Ok() {
			g.t.Fatalf("lookup of %q in %q: %v", name, path, s)
		}
		id = out.NodeId
	}
	return id
}

func (g *guest) getattr(id uint64) (fuse.Attr, fuse.Status) {
	in := fuse.GetAttrIn{InHeader: header(id)}
	var out fuse.AttrOut
	s := g.fs.GetAttr(nil, &in, &out)
	return out.Attr, s
}

func (g *guest) tryOpen(id uint64, flags uint32) (uint64, fuse.Status) {
	in := fuse.OpenIn{InHeader: header(id), Flags: flags}
	var out fuse.OpenOut
	s := g.fs.Open(nil, &in, &out)
	return out.Fh, s
}

func (g *guest) open(id uint64, flags uint32) uint64 {
	g.t.Helper()
	fh, s := g.tryOpen(id, flags)
	if !s.Ok() {
		g.t.Fatalf("open: %v", s)
	}
	return fh
}

func (g *guest) release(id, fh uint64) {
	in := fuse.ReleaseIn{InHeader: header(id), Fh: fh}
	g.fs.Release(nil, &in)
}

func (g *guest) read(id, fh uint64) (string, fuse.Status) {
	buf := make([]byte, 4096)
	in := fuse.ReadIn{InHeader: header(id), Fh: fh, Size: uint32(len(buf))}
	r, s := g.fs.Read(nil, &in, buf)
	if !s.Ok() {
		return "", s
	}
	defer r.Done()
	b, s := r.Bytes(buf)
	return string(b), s
}

func (g *guest) write(id, fh uint64, content string) fuse.Status {
	in := fuse.WriteIn{InHeader: header(id), Fh: fh, Size: uint32(len(content))}
	_, s := g.fs.Write(nil, &in, []byte(content))
	return s
}

func (g *guest) create(dir uint64, name string) (id, fh uint64, s fuse.Status) {
	in := fuse.CreateIn{InHeader: header(dir), Flags: unix.O_RDWR, Mode: unix.S_IFREG | 0o644}
	var out fuse.CreateOut
	s = g.fs.Create(nil, &in, name, &out)
	return out.NodeId, out.Fh, s
}

func (g *guest) mkdir(dir uint64, name string) (uint64, fuse.Status) {
	in := fuse.MkdirIn{InHeader: header(dir), Mode: 0o755}
	var out fuse.EntryOut
	s := g.fs.Mkdir(nil, &in, name, &out)
	return out.NodeId, s
}

func (g *guest) unlink(dir uint64, name string) fuse.Status {
	in := header(dir)
	return g.fs.Unlink(nil, &in, name)
}

func (g *guest) rename(from uint64, name string, to uint64, newName string, flags uint32) fuse.Status {
	in := fuse.RenameIn{InHeader: header(from), Newdir: to, Flags: flags}
	return g.fs.Rename(nil, &in, name, newName)
}

// want fails the test if a request ends in another way.
func (g *guest) want(what string, got fuse.Status, want unix.Errno) {
	g.t.Helper()
	if got != fuse.Status(want) {
		g.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// file makes a file of the host's below what is served.
func (g *guest) file(name, content string) {
	g.t.Helper()
	if err := os.WriteFile(g.dir+"/"+name, []byte(content), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// descriptors counts what this process has open below the served directory.
func (g *guest) descriptors() int {
	g.t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		g.t.Fatal(err)
	}
	n := 0
	for _, e := range list {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, g.dir) {
			n++
		}
	}
	return n
}
