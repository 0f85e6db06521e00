package passthrough_test

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const root = fuse.FUSE_ROOT_ID

// TestNames refuses names that are not a directory's own entry, for every request that
// has one.
func TestNames(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	g.file("file", "x")
	file := g.lookup("file")
	in := header(root)
	for name, want := range map[string]unix.Errno{
		"": unix.EINVAL, ".": unix.EINVAL, "..": unix.EINVAL, "/": unix.EINVAL, "../x": unix.EINVAL, "a/b": unix.EINVAL,
		"/etc/passwd": unix.EINVAL, "a\x00b": unix.EINVAL, "\x00": unix.EINVAL, strings.Repeat("x", 256): unix.ENAMETOOLONG,
	} {
		var entry fuse.EntryOut
		_, s := g.tryLookup(root, name)
		g.want("lookup", s, want)
		_, _, s = g.create(root, name)
		g.want("create", s, want)
		_, s = g.mkdir(root, name)
		g.want("mkdir", s, want)
		g.want("mknod", g.fs.Mknod(nil, &fuse.MknodIn{InHeader: in, Mode: unix.S_IFIFO}, name, &entry), want)
		g.want("symlink", g.fs.Symlink(nil, &in, "x", name, &entry), want)
		g.want("link", g.fs.Link(nil, &fuse.LinkIn{InHeader: in, Oldnodeid: file}, name, &entry), want)
		g.want("unlink", g.unlink(root, name), want)
		g.want("rmdir", g.fs.Rmdir(nil, &in, name), want)
		g.want("rename from", g.rename(root, name, root, "x", 0), want)
		g.want("rename to", g.rename(root, "file", root, name, 0), want)
	}
}

// TestMadeUpIDs names nodes and open files that do not exist, or are another's.
func TestMadeUpIDs(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	g.file("one", "1")
	g.file("two", "2")
	one, two := g.lookup("one"), g.lookup("two")
	for _, id := range []uint64{0, 4, 255, 256, 1 << 20, 1<<32 | 1, 1<<32 | one, 1 << 63, ^uint64(0)} {
		_, s := g.tryLookup(id, "one")
		g.want("lookup", s, unix.ESTALE)
		_, s = g.getattr(id)
		g.want("getattr", s, unix.ESTALE)
		_, s = g.tryOpen(id, 0)
		g.want("open", s, unix.ESTALE)
		g.want("rename", g.rename(root, "one", id, "x", 0), unix.ESTALE)
		g.fs.Forget(id, 1)
	}
	fh := g.open(one, unix.O_RDWR)
	_, s := g.read(two, fh)
	g.want("read through another's file", s, unix.EBADF)
	_, s = g.read(one, fh+1)
	g.want("read through no file", s, unix.EBADF)
	g.want("write through another's file", g.write(two, fh, "x"), unix.EBADF)
	g.release(two, fh)
	if content, s := g.read(one, fh); content != "1" {
		t.Errorf("after the release of another's file: %q %v", content, s)
	}
	list := fuse.NewDirEntryList(make([]byte, 1024), 0)
	g.want("list a file", g.fs.ReadDir(nil, &fuse.ReadIn{InHeader: header(one), Fh: fh}, list), unix.ENOTDIR)
	g.release(one, fh)
	_, s = g.read(one, fh)
	g.want("read what is closed", s, unix.EBADF)
	g.release(one, fh)

	// What is forgotten is no more, even when its place is another's.
	g.fs.Forget(one, 1000)
	_, s = g.getattr(one)
	g.want("getattr of what is forgotten", s, unix.ESTALE)
	g.file("three", "3")
	g.lookup("three")
	_, s = g.getattr(one)
	g.want("getattr of a place of another", s, unix.ESTALE)
	g.fs.Forget(root, 1000)
	if _, s := g.getattr(root); !s.Ok() {
		t.Errorf("the root was forgotten: %v", s)
	}
}

// TestSpecialFiles opens nothing but regular files and directories.
func TestSpecialFiles(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	if err := unix.Mkfifo(g.dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", g.dir+"/link"); err != nil {
		t.Fatal(err)
	}
	names := []string{"fifo", "link"}
	if os.Geteuid() == 0 {
		if err := unix.Mknod(g.dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
		names = append(names, "null")
	}
	for _, name := range names {
		id := g.lookup(name)
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC, unix.O_PATH} {
			_, s := g.tryOpen(id, flags)
			g.want("open "+name, s, unix.ENXIO)
		}
		in := fuse.OpenIn{InHeader: header(id)}
		g.want("opendir", g.fs.OpenDir(nil, &in, &fuse.OpenOut{}), unix.ENOTDIR)
		set := fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: header(id), Valid: fuse.FATTR_SIZE, Size: 1}}
		g.want("truncate", g.fs.SetAttr(nil, &set, &fuse.AttrOut{}), unix.EINVAL)
		create := fuse.CreateIn{InHeader: header(root), Flags: unix.O_RDWR, Mode: 0o644}
		g.want("create over "+name, g.fs.Create(nil, &create, name, &fuse.CreateOut{}), unix.ENXIO)
		if _, s := g.tryLookup(id, "x"); s != fuse.ENOTDIR {
			t.Errorf("lookup below %s: %v", name, s)
		}
	}
	// Flags that would make open something else.
	g.file("file", "content")
	id := g.lookup("file")
	for _, flags := range []uint32{unix.O_PATH, unix.O_DIRECTORY, unix.O_CREAT, unix.O_EXCL, unix.O_TMPFILE, unix.O_NOFOLLOW, 1 << 30} {
		fh := g.open(id, flags)
		if content, s := g.read(id, fh); content != "content" {
			t.Errorf("opened with %#x: %q %v", flags, content, s)
		}
	}
}

// TestSwappedUnderTheServer has the host swap a directory and symbolic links that lead
// outside, while the guest walks: it never gets out.
func TestSwappedUnderTheServer(t *testing.T) {
	base := t.TempDir()
	outside := base + "/outside"
	for _, d := range []string{"/outside", "/share", "/share/d", "/share/d/e"} {
		if err := os.Mkdir(base+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(outside+"/secret", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(base+"/share/d/e/secret", []byte("public"), 0o644); err != nil {
		t.Fatal(err)
	}
	var secret unix.Stat_t
	if err := unix.Stat(outside+"/secret", &secret); err != nil {
		t.Fatal(err)
	}
	// Few descriptors, so that nodes are opened again all the time.
	o := options()
	o.MaxNodeDescriptors = 1
	g := serveDir(t, base+"/share", o)
	for _, target := range []string{outside, "../outside", "/proc/self/root" + outside} {
		if err := os.Symlink(target, base+"/share/link"+strings.ReplaceAll(target, "/", "_")); err != nil {
			t.Fatal(err)
		}
	}
	list, err := os.ReadDir(base + "/share")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			for _, e := range list {
				if e.Name() == "d" {
					continue
				}
				_ = unix.Renameat2(unix.AT_FDCWD, base+"/share/d", unix.AT_FDCWD, base+"/share/"+e.Name(), unix.RENAME_EXCHANGE)
				_ = unix.Renameat2(unix.AT_FDCWD, base+"/share/d/e", unix.AT_FDCWD, base+"/share/"+e.Name(), unix.RENAME_EXCHANGE)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	found := 0
	for range 3000 {
		d, s := g.tryLookup(root, "d")
		if !s.Ok() {
			continue
		}
		for _, name := range []string{"secret", "e"} {
			e, s := g.tryLookup(d.NodeId, name)
			if !s.Ok() {
				continue
			}
			f := e
			if name == "e" {
				if f, s = g.tryLookup(e.NodeId, "secret"); !s.Ok() {
					continue
				}
			}
			if f.Ino == secret.Ino {
				t.Fatal("the guest reached a file outside")
			}
			if fh, s := g.tryOpen(f.NodeId, unix.O_RDONLY); s.Ok() {
				content, _ := g.read(f.NodeId, fh)
				if content == "secret" {
					t.Fatal("the guest read a file outside")
				}
				found++
				g.release(f.NodeId, fh)
			}
		}
	}
	close(stop)
	swapping.Wait()
	if found == 0 {
		t.Error("the guest never found its own file: nothing was tried")
	}
}

// TestReadOnly refuses every change.
func TestReadOnly(t *testing.T) {
	o := options()
	o.ReadOnly = true
	g := serveDir(t, t.TempDir(), o)
	g.file("file", "content")
	id := g.lookup("file")
	in, entry := header(root), fuse.EntryOut{}
	_, _, s := g.create(root, "new")
	g.want("create", s, unix.EROFS)
	_, s = g.mkdir(root, "new")
	g.want("mkdir", s, unix.EROFS)
	g.want("mknod", g.fs.Mknod(nil, &fuse.MknodIn{InHeader: in, Mode: unix.S_IFIFO}, "new", &entry), unix.EROFS)
	g.want("symlink", g.fs.Symlink(nil, &in, "x", "new", &entry), unix.EROFS)
	g.want("link", g.fs.Link(nil, &fuse.LinkIn{InHeader: in, Oldnodeid: id}, "new", &entry), unix.EROFS)
	g.want("unlink", g.unlink(root, "file"), unix.EROFS)
	g.want("rmdir", g.fs.Rmdir(nil, &in, "file"), unix.EROFS)
	g.want("rename", g.rename(root, "file", root, "new", 0), unix.EROFS)
	g.want("tmpfile", g.fs.Tmpfile(nil, &fuse.CreateIn{InHeader: in, Flags: unix.O_RDWR}, &fuse.CreateOut{}), unix.EROFS)
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC, unix.O_ACCMODE} {
		_, s = g.tryOpen(id, flags)
		g.want("open for writing", s, unix.EROFS)
	}
	g.want("setattr", g.fs.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: header(id), Valid: fuse.FATTR_MODE}}, &fuse.AttrOut{}), unix.EROFS)
	g.want("setxattr", g.fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: header(id)}, "user.x", nil), unix.EROFS)
	file := header(id)
	g.want("removexattr", g.fs.RemoveXAttr(nil, &file, "user.x"), unix.EROFS)
	fh := g.open(id, unix.O_RDONLY)
	g.want("write", g.write(id, fh, "x"), unix.EROFS)
	g.want("fallocate", g.fs.Fallocate(nil, &fuse.FallocateIn{InHeader: header(id), Fh: fh, Length: 1}), unix.EROFS)
	_, s = g.fs.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: header(id), FhIn: fh, NodeIdOut: id, FhOut: fh, Len: 1})
	g.want("copy", s, unix.EROFS)
	if content, s := g.read(id, fh); content != "content" {
		t.Errorf("read: %q %v", content, s)
	}
}

// TestMappedAttributes keeps what overlayfs and administrators of the host act on out of
// the guest's hands.
func TestMappedAttributes(t *testing.T) {
	g := serveDir(t, t.TempDir(), options())
	g.file("file", "x")
	id := g.lookup("file")
	h := header(id)
	set := func(name, value string) fuse.Status {
		return g.fs.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: h, Size: uint32(len(value))}, name, []byte(value))
	}
	for _, name := range []string{"trusted.overlay.opaque", "trusted.x", "user.overlay.redirect", "user.kata.trusted.x", "user.plain"} {
		g.want("set "+name, set(name, "of the guest"), 0)
	}
	for name, want := range map[string]bool{
		"trusted.overlay.opaque": false, "trusted.x": false, "user.overlay.redirect": false, "user.plain": true,
		"user.kata.trusted.overlay.opaque": true, "user.kata.trusted.x": true, "user.kata.user.overlay.redirect": true,
		"user.kata.user.kata.trusted.x": true,
	} {
		if _, err := unix.Getxattr(g.dir+"/file", name, nil); (err == nil) != want {
			t.Errorf("the host has %s: %v, want %v", name, err == nil, want)
		}
	}
	for _, name := range []string{"security.selinux", "security.ima", "security.evm", "security.SMACK64", "security.apparmor"} {
		g.want("set "+name, set(name, "x"), unix.EPERM)
		g.want("remove "+name, g.fs.RemoveXAttr(nil, &h, name), unix.EPERM)
	}
	g.want("set system.other", set("system.other", "x"), unix.EOPNOTSUPP)
	// The host's own do not reach the guest.
	if err := unix.Setxattr(g.dir+"/file", "user.overlay.impure", []byte("of the host"), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(g.dir+"/file", "user.kata.other", []byte("of the host"), 0); err != nil {
		t.Fatal(err)
	}
	_, s := g.fs.GetXAttr(nil, &h, "user.overlay.impure", make([]byte, 100))
	g.want("the host's own", s, unix.ENODATA)
	dest := make([]byte, 1024)
	n, s := g.fs.ListXAttr(nil, &h, dest)
	if !s.Ok() {
		t.Fatal(s)
	}
	got := map[string]bool{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(dest[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") {
			got[name] = true
		}
	}
	for _, name := range []string{"trusted.overlay.opaque", "trusted.x", "user.overlay.redirect", "user.kata.trusted.x", "user.plain"} {
		if !got[name] {
			t.Errorf("%s is not listed", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("listed, of the host: %v", got)
	}
}
