package passthrough_test

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// overlay mounts an overlayfs, whose files have no handles, and returns its mount point.
func overlay(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system: run as root")
	}
	base := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(base+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base)
	if err := unix.Mount("overlay", base+"/merged", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base+"/merged", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return base + "/merged"
}

// eachKind runs a test on a file system with file handles and on one without.
func eachKind(t *testing.T, f func(t *testing.T, dir string)) {
	t.Run("handles", func(t *testing.T) { f(t, t.TempDir()) })
	t.Run("names", func(t *testing.T) { f(t, overlay(t)) })
}

// TestBound has the guest know more files than there may be descriptors.
func TestBound(t *testing.T) {
	eachKind(t, func(t *testing.T, dir string) {
		const files, bound = 300, 20
		o := options()
		o.MaxNodeDescriptors = bound
		g := serveDir(t, dir, o)
		ids := map[string]uint64{}
		sub, s := g.mkdir(root, "sub")
		if !s.Ok() {
			t.Fatal(s)
		}
		deep, s := g.mkdir(sub, "deep")
		if !s.Ok() {
			t.Fatal(s)
		}
		for i := range files {
			name := fmt.Sprint("file", i)
			id, fh, s := g.create(deep, name)
			if !s.Ok() {
				t.Fatal(s)
			}
			g.want("write", g.write(id, fh, name), 0)
			g.release(id, fh)
			ids[name] = id
		}
		if n := g.descriptors(); n > bound+3 {
			t.Errorf("%d descriptors for %d files, with a bound of %d", n, files, bound)
		}
		check := func(what string) {
			t.Helper()
			for name, id := range ids {
				fh, s := g.tryOpen(id, unix.O_RDONLY)
				if !s.Ok() {
					t.Fatalf("open %s, %s: %v", name, what, s)
				}
				if content, _ := g.read(id, fh); content != name {
					t.Fatalf("%s, %s: %q", name, what, content)
				}
				g.release(id, fh)
			}
		}
		check("remembered")
		// The guest moves files, and directories above them.
		g.want("rename", g.rename(deep, "file7", sub, "moved", 0), 0)
		g.want("exchange", g.rename(deep, "file8", deep, "file9", unix.RENAME_EXCHANGE), 0)
		g.want("rename", g.rename(sub, "deep", root, "shallow", 0), 0)
		check("after renames")
		for name, id := range ids {
			n, s := g.tryLookup(deep, name)
			switch {
			case name == "file7":
				g.want("lookup of what has gone", s, unix.ENOENT)
				continue
			case name == "file8" || name == "file9":
			case n.NodeId != id:
				t.Fatalf("%s is another node now: %d, was %d", name, n.NodeId, id)
			}
			g.fs.Forget(n.NodeId, 1)
		}
		check("looked up again")
		for _, id := range ids {
			g.fs.Forget(id, 1)
		}
		if n := g.descriptors(); n > 3+3 {
			t.Errorf("%d descriptors when all is forgotten", n)
		}
		if out, s := g.tryLookup(deep, "file1"); !s.Ok() || out.NodeId == ids["file1"] {
			t.Errorf("what was forgotten is known by its old id: %v", s)
		}
	})
}

// TestReplaced has the host replace what the guest remembers without a descriptor.
func TestReplaced(t *testing.T) {
	eachKind(t, func(t *testing.T, dir string) {
		o := options()
		o.MaxNodeDescriptors = 1
		g := serveDir(t, dir, o)
		for i := range 50 {
			name := fmt.Sprint("file", i)
			g.file(name, "old")
			id := g.lookup(name)
			g.file("other", "x")
			g.fs.Forget(g.lookup("other"), 1)
			if err := os.Remove(g.dir + "/" + name); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(g.dir+"/"+name, 0o755); err != nil {
				t.Fatal(err)
			}
			if a, s := g.getattr(id); s.Ok() && a.Mode&unix.S_IFMT != unix.S_IFREG {
				t.Fatalf("a file has become a directory for the guest: mode %o", a.Mode)
			}
			if now := g.lookup(name); now == id {
				t.Fatal("a directory has the id of the file that was there")
			}
		}
	})
}

// TestChangedPlaces has the host move a directory into one that was below it, while the
// guest remembers both without descriptors.
func TestChangedPlaces(t *testing.T) {
	const stack = 64 << 20 // a recursion without end is to end soon
	defer debug.SetMaxStack(debug.SetMaxStack(stack))
	eachKind(t, func(t *testing.T, dir string) {
		o := options()
		o.MaxNodeDescriptors = 1
		g := serveDir(t, dir, o)
		if err := os.MkdirAll(dir+"/a/b/c", 0o755); err != nil {
			t.Fatal(err)
		}
		upper, lower, last := g.lookup("a"), g.lookup("a/b"), g.lookup("a/b/c")
		for _, move := range [][2]string{{"/a/b", "/b"}, {"/a", "/b/c/a"}} {
			if err := os.Rename(dir+move[0], dir+move[1]); err != nil {
				t.Fatal(err)
			}
		}
		if out, s := g.tryLookup(last, "a"); !s.Ok() || out.NodeId != upper {
			t.Errorf("the moved directory is %d, not %d: %v", out.NodeId, upper, s)
		}
		for i := range 5 {
			g.file(fmt.Sprint(i), "x")
			g.lookup(fmt.Sprint(i))
		}
		for _, id := range []uint64{upper, lower, last} {
			if _, s := g.getattr(id); !s.Ok() && s != fuse.Status(unix.ESTALE) {
				t.Errorf("attributes: %v", s)
			}
		}
		// Where they are looked up again, they are found again.
		for path, id := range map[string]uint64{"b": lower, "b/c": last, "b/c/a": upper} {
			if now := g.lookup(path); now != id {
				t.Errorf("%s is %d, not %d", path, now, id)
			}
		}
		for _, id := range []uint64{upper, lower, last} {
			if _, s := g.getattr(id); !s.Ok() {
				t.Errorf("attributes where it is: %v", s)
			}
		}
	})
}

// TestForgetRace looks up and forgets the same file at the same time: who was told of it
// last can use it.
func TestForgetRace(t *testing.T) {
	o := options()
	o.MaxNodeDescriptors = 2
	g := serveDir(t, t.TempDir(), o)
	for i := range 4 {
		g.file(fmt.Sprint(i), "content")
	}
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 2000 {
				out, s := g.tryLookup(root, fmt.Sprint((i+worker)%4))
				if !s.Ok() {
					t.Errorf("lookup: %v", s)
					return
				}
				if a, s := g.getattr(out.NodeId); !s.Ok() || a.Ino != out.Ino {
					t.Errorf("getattr of what was just looked up: %v", s)
					return
				}
				g.fs.Forget(out.NodeId, 1)
			}
		})
	}
	all.Wait()
	if n := g.descriptors(); n > 1+2 {
		t.Errorf("%d descriptors when all is forgotten", n)
	}
}

// TestTooManyOpen refuses what is beyond the bound, and gives room again.
func TestTooManyOpen(t *testing.T) {
	o := options()
	o.MaxOpenFiles = 3
	g := serveDir(t, t.TempDir(), o)
	g.file("file", "x")
	id := g.lookup("file")
	var fhs []uint64
	for range 3 {
		fhs = append(fhs, g.open(id, unix.O_RDONLY))
	}
	_, s := g.tryOpen(id, unix.O_RDONLY)
	g.want("one more", s, unix.ENFILE)
	_, _, s = g.create(root, "new")
	g.want("create", s, unix.ENFILE)
	g.release(id, fhs[0])
	g.open(id, unix.O_RDONLY)
}

// TestReset forgets a guest that has started again.
func TestReset(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	for i := range 10 {
		g.file(fmt.Sprint(i), "x")
		id := g.lookup(fmt.Sprint(i))
		g.open(id, unix.O_RDONLY)
	}
	g.fs.OnUnmount()
	if n := g.descriptors(); n > 3 {
		t.Errorf("%d descriptors of a guest that is gone", n)
	}
	g.open(g.lookup("1"), unix.O_RDONLY)
}

// TestHostMounts has mounts of the host appear and go below what the guest uses: they
// keep their own numbers, and nothing keeps them busy.
func TestHostMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts file systems: run as root")
	}
	for _, lasting := range []int{0, 1} {
		t.Run(fmt.Sprint("lasting ", lasting), func(t *testing.T) {
			o := options()
			o.Lasting = lasting
			g := serveDir(t, t.TempDir(), o)
			point := g.dir + "/point"
			if err := os.Mkdir(point, 0o755); err != nil {
				t.Fatal(err)
			}
			g.file("point/below", "below")
			below := g.lookup("point/below")
			for round := range 3 {
				if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(point+"/dir", 0o755); err != nil {
					t.Fatal(err)
				}
				g.file("point/dir/file", "on the mount")
				id := g.lookup("point/dir/file")
				fh := g.open(id, unix.O_RDWR)
				if content, s := g.read(id, fh); content != "on the mount" {
					t.Fatalf("read: %q %v", content, s)
				}
				dir := g.lookup("point/dir")
				made, madeFH, s := g.create(dir, "new")
				g.want("create", s, 0)
				g.release(made, madeFH)
				// Open: busy, as under runc.
				if err := unix.Unmount(point, 0); err != unix.EBUSY {
					t.Errorf("unmount with a file open: %v, want EBUSY", err)
				}
				g.release(id, fh)
				flags := 0
				if lasting > 0 {
					flags = unix.MNT_DETACH
				}
				if err := unix.Unmount(point, flags); err != nil {
					t.Fatalf("unmount in round %d: %v", round, err)
				}
				if lasting > 0 {
					waitFor(t, "the mount's files to be dropped", func() bool {
						_, s := g.getattr(id)
						return !s.Ok() && g.descriptors() < 6
					})
				}
				_, s = g.getattr(id)
				g.want("getattr of what is gone", s, unix.ESTALE)
				if now := g.lookup("point/below"); now != below {
					t.Errorf("what is below the mount point is another node: %d, was %d", now, below)
				}
			}
		})
	}
}

// TestSubmounts tells the guest where a mount begins.
func TestSubmounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts file systems: run as root")
	}
	for _, submounts := range []bool{true, false} {
		o := options()
		o.Submounts = submounts
		g := serveDir(t, t.TempDir(), o)
		inos := map[uint64]bool{}
		for i := range 2 {
			point := fmt.Sprint(g.dir, "/", i)
			if err := os.Mkdir(point, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			out, s := g.tryLookup(root, fmt.Sprint(i))
			if !s.Ok() {
				t.Fatal(s)
			}
			if got := out.Flags&fuse.ATTR_SUBMOUNT != 0; got != submounts {
				t.Errorf("marked as a mount: %v", got)
			}
			inos[out.Ino] = true
			if a, s := g.getattr(out.NodeId); !s.Ok() || a.Ino != out.Ino {
				t.Errorf("inode number %d, then %d", out.Ino, a.Ino)
			}
		}
		if !submounts && len(inos) != 2 {
			t.Error("the roots of two mounts have the same inode number")
		}
	}
}

// TestHardLinks are one node.
func TestHardLinks(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	g.file("one", "x")
	if err := os.Link(g.dir+"/one", g.dir+"/two"); err != nil {
		t.Fatal(err)
	}
	if g.lookup("one") != g.lookup("two") {
		t.Error("two links of a file are two nodes")
	}
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
