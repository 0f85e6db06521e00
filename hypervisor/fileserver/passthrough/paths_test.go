package passthrough_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

func pathOptions() passthrough.Options {
	o := options()
	o.Cache.Paths = true
	o.Watch = true // no handles, as in a jail
	return o
}

// walk looks a path up until the names of its directories hold.
func (g *guest) walk(names ...string) (ids []uint64) {
	g.t.Helper()
	for range 1000 { // a busy machine may take long between two lookups
		ids = ids[:0]
		id, hold := uint64(root), true
		for _, name := range names {
			out, s := g.tryLookup(id, name)
			g.want("lookup of "+name, s, 0)
			hold = hold && out.EntryTimeout() > 0
			id = out.NodeId
			ids = append(ids, id)
		}
		if hold {
			return ids
		}
	}
	g.t.Fatalf("the names %q hold for no time", names)
	return nil
}

// Names of directories hold briefly for who walks, and those of nothing else.
func TestNamesOfDirectoriesHoldForWhoWalks(t *testing.T) {
	g := serveDir(t, t.TempDir(), pathOptions())
	if err := os.MkdirAll(g.dir+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	g.file("a/b/file", "x")
	if out, s := g.tryLookup(root, "a"); !s.Ok() || out.EntryTimeout() != 0 {
		t.Errorf("a name that is asked for once holds for %v: %v", out.EntryTimeout(), s)
	}
	ids := g.walk("a", "b")
	for range 3 {
		if out, s := g.tryLookup(ids[1], "file"); !s.Ok() || out.EntryTimeout() != 0 {
			t.Errorf("a file's name holds for %v: %v", out.EntryTimeout(), s)
		}
	}
	<-time.After(60 * time.Millisecond)
	if out, s := g.tryLookup(root, "a"); !s.Ok() || out.EntryTimeout() != 0 {
		t.Errorf("a name that was not asked for lately holds for %v: %v", out.EntryTimeout(), s)
	}
	without := serveDir(t, g.dir, options())
	for range 3 {
		if out, s := without.tryLookup(root, "a"); !s.Ok() || out.EntryTimeout() != 0 {
			t.Errorf("without being asked to, a name holds for %v: %v", out.EntryTimeout(), s)
		}
	}
}

// Who has come by a name that is another's meanwhile walks again.
func TestPathsThatHaveChangedAreWalkedAgain(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"renamed":       func(dir string) error { return os.Rename(dir+"/a/b", dir+"/a/c") },
		"above renamed": func(dir string) error { return os.Rename(dir+"/a", dir+"/c") },
		"replaced": func(dir string) error {
			return errors.Join(os.Rename(dir+"/a/b", dir+"/c"), os.Mkdir(dir+"/a/b", 0o755))
		},
		"removed": func(dir string) error { return os.RemoveAll(dir + "/a/b") },
	} {
		for what, ask := range map[string]func(g *guest, id uint64) unix.Errno{
			"lookup": func(g *guest, id uint64) unix.Errno {
				_, s := g.tryLookup(id, "file")
				return unix.Errno(s)
			},
			"lookup of what is known": func(g *guest, id uint64) unix.Errno {
				_, s := g.tryLookup(id, "known")
				return unix.Errno(s)
			},
			"unlink": func(g *guest, id uint64) unix.Errno { return unix.Errno(g.unlink(id, "other")) },
			"rename": func(g *guest, id uint64) unix.Errno { return unix.Errno(g.rename(id, "other", root, "other", 0)) },
			"open": func(g *guest, id uint64) unix.Errno {
				return unix.Errno(g.fs.OpenDir(nil, &fuse.OpenIn{InHeader: header(id)}, &fuse.OpenOut{}))
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				g := serveDir(t, t.TempDir(), pathOptions())
				if err := os.MkdirAll(g.dir+"/a/b", 0o755); err != nil {
					t.Fatal(err)
				}
				g.file("a/b/file", "x")
				g.file("a/b/other", "x")
				g.file("a/b/known", "x")
				g.lookup("a/b/known")
				ids := g.walk("a", "b")
				if err := change(g.dir); err != nil {
					t.Fatal(err)
				}
				if got := ask(g, ids[1]); got != unix.ESTALE {
					t.Errorf("the first time: %v, want %v", got, unix.ESTALE)
				}
				if what == "lookup of what is known" {
					if got := ask(g, ids[1]); got != unix.ESTALE {
						t.Errorf("the second time: %v, want %v", got, unix.ESTALE)
					}
				}
				// And who has it open, or works there, is answered.
				if got := ask(g, ids[1]); got == unix.ESTALE {
					t.Errorf("and then: %v", got)
				}
			})
		}
	}
}

// Whatever the host does to directories, the next call in a mount sees it, and none fails
// that would not on the host.
func TestPathsAreTheHosts(t *testing.T) {
	const rounds, names = 200, 4
	source, mnt := mounted(t, pathOptions())
	for _, dir := range []string{"x/a/deep", "x/b/deep", "y/deep"} {
		must(t, os.MkdirAll(filepath.Join(source, dir), 0o755))
	}
	inside, err := os.Open(filepath.Join(mnt, "y"))
	must(t, err)
	defer inside.Close()
	for round := range rounds {
		// Each is looked at once: the kernel holds on to none of them.
		for n := range 2 * names {
			for _, dir := range []string{"x/a/deep", "x/b/deep", "y/deep"} {
				must(t, unix.Mknod(filepath.Join(source, dir, fmt.Sprint(round, " ", n)), unix.S_IFREG|0o644, 0))
			}
		}
		next := 0
		same := func() {
			t.Helper()
			for range names {
				name := fmt.Sprint(round, " ", next)
				next++
				var want, got unix.Stat_t
				err1 := unix.Lstat(filepath.Join(source, "x/a/deep", name), &want)
				err2 := unix.Lstat(filepath.Join(mnt, "x/a/deep", name), &got)
				if !errors.Is(err2, err1) || want.Ino != got.Ino {
					t.Fatalf("round %d, name %d: file %d, %v; want %d, %v", round, next, got.Ino, err2, want.Ino, err1)
				}
				if err := unix.Fstatat(int(inside.Fd()), "deep/"+name, &got, 0); err != nil {
					t.Fatalf("round %d, name %d: by the directory's descriptor: %v", round, next, err)
				}
			}
		}
		move := func(from, to string, flags uint) {
			t.Helper()
			must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(source, from), unix.AT_FDCWD, filepath.Join(source, to), flags))
		}
		same()
		switch round % 4 {
		case 0:
			move("x/a", "x/b", unix.RENAME_EXCHANGE)
			same()
		case 1:
			move("x/a/deep", "x/away", 0)
			same()
			move("x/away", "x/a/deep", 0)
		case 2:
			move("x", "z", 0)
			same()
			move("z", "x", 0)
		case 3:
			move("y", "w", 0)
			same()
			move("w", "y", 0)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Several walk at once while directories change places: each file found is one that was there.
func TestPathsOfManyWalkers(t *testing.T) {
	source, mnt := mounted(t, pathOptions())
	for _, dir := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Join(source, dir, "deep"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, dir, "deep", "name"), []byte(dir), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var walkers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		walkers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := os.ReadFile(mnt + "/a/deep/name"); err != nil && !errors.Is(err, unix.ESTALE) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 500 {
		if err := unix.Renameat2(unix.AT_FDCWD, source+"/a", unix.AT_FDCWD, source+"/b", unix.RENAME_EXCHANGE); err != nil {
			t.Error(err)
		}
		<-time.After(100 * time.Microsecond)
	}
	close(done)
	walkers.Wait()
	<-time.After(60 * time.Millisecond) // no name holds for so long
	for _, dir := range []string{"a", "b"} {
		want, err := os.ReadFile(fmt.Sprintf("%s/%s/deep/name", source, dir))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(fmt.Sprintf("%s/%s/deep/name", mnt, dir)); err != nil || string(got) != string(want) {
			t.Errorf("%s has %q, %v; want %q", dir, got, err, want)
		}
	}
}

// A walk by paths takes a lookup for each file, and not one for each part of its path.
func TestLookupsOfAWalk(t *testing.T) {
	const files = 300
	source, mnt, lookups := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "lookups")
	must(t, os.MkdirAll(source+"/a/b", 0o755))
	for n := range files {
		must(t, os.WriteFile(fmt.Sprint(source, "/a/b/", n), nil, 0o644))
	}
	walk := func(o passthrough.Options) (count int) {
		t.Run("walk", func(t *testing.T) {
			mountServed(t, served{Source: source, Mount: mnt, Options: o, Lookups: lookups})
			for n := range files {
				var st unix.Stat_t
				must(t, unix.Stat(fmt.Sprint(mnt, "/a/b/", n), &st))
			}
		})
		text, err := os.ReadFile(lookups)
		must(t, err)
		_, err = fmt.Sscan(string(text), &count)
		must(t, err)
		return count
	}
	if n := walk(options()); n < 3*files {
		t.Errorf("%d files take %d lookups where names hold for no time", files, n)
	}
	// Names hold for a tick or two, which is short on a busy machine.
	least := 3 * files
	for range 10 {
		if least = min(least, walk(pathOptions())); least < files*3/2 {
			return
		}
	}
	t.Errorf("%d files take %d lookups, want %d at most", files, least, files*3/2)
}
