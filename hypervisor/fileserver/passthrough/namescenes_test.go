package passthrough_test

import (
	"bytes"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func nameScenes(all map[string]scene) {
	all["names"] = scene{run: func(a *account) {
		for _, n := range []string{strings.Repeat("n", 255), strings.Repeat("n", 256), " ", "\n", "\xff\xfe", "a\\b", "…", "-", ".hidden", "..."} {
			a.say("mkdir", unix.Mkdir(n, 0o755))
			a.say("create", os.WriteFile(n+"f", nil, 0o644))
			a.say("link", os.Symlink(strings.Repeat("t", 1000), n+"l"))
		}
		a.say("long target", os.Symlink(strings.Repeat("t", 4095), "long"))
		a.say("longer target", os.Symlink(strings.Repeat("t", 4096), "longer"))
		t, err := os.Readlink("long")
		a.note("%d %v", len(t), err)
		a.say("dot", unix.Rmdir("."))
		a.say("dots", unix.Rmdir(".."))
		a.say("rename dot", unix.Rename(".", "x"))
	}}
	all["renames"] = scene{root: true, run: func(a *account) {
		fresh := func() {
			a.must(os.RemoveAll("d"))
			a.must(os.MkdirAll("d/full/sub", 0o755))
			a.must(os.Mkdir("d/empty", 0o755))
			a.must(os.WriteFile("d/a", []byte("a"), 0o644))
			a.must(os.WriteFile("d/b", []byte("bb"), 0o644))
			a.must(os.Link("d/a", "d/also"))
			a.must(os.Symlink("a", "d/link"))
		}
		for _, flags := range []uint{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE, 1 << 8} {
			for _, p := range [][2]string{
				{"a", "b"},
				{"a", "new"},
				{"a", "also"},
				{"a", "a"},
				{"a", "empty"},
				{"empty", "a"},
				{"empty", "full"},
				{"full", "empty"},
				{"full", "full/sub/x"},
				{"full/sub", "full"},
				{"link", "b"},
				{"none", "b"},
				{"a", "none/x"},
				{"a", "full/sub/a"},
			} {
				fresh()
				a.say("rename "+itoa(int(flags))+" "+p[0]+" "+p[1], unix.Renameat2(unix.AT_FDCWD, "d/"+p[0], unix.AT_FDCWD, "d/"+p[1], flags))
				for _, n := range []string{"d/" + p[0], "d/" + p[1]} {
					var st unix.Stat_t
					err := unix.Lstat(n, &st)
					a.note("%s %o %d %d %v", n, st.Mode, st.Nlink, st.Rdev, err)
				}
			}
		}
	}}
	all["links and removals"] = scene{run: func(a *account) {
		a.must(os.WriteFile("file", []byte("x"), 0o644))
		a.must(os.MkdirAll("full/sub", 0o755))
		a.must(os.Symlink("file", "link"))
		a.say("link", os.Link("file", "second"))
		a.say("link again", os.Link("file", "second"))
		a.say("link a link", unix.Linkat(unix.AT_FDCWD, "link", unix.AT_FDCWD, "link2", 0))
		a.say("link through", unix.Linkat(unix.AT_FDCWD, "link", unix.AT_FDCWD, "third", unix.AT_SYMLINK_FOLLOW))
		a.say("link a directory", os.Link("full", "full2"))
		a.say("unlink a directory", unix.Unlink("full"))
		a.say("rmdir a file", unix.Rmdir("file"))
		a.say("rmdir a full one", unix.Rmdir("full"))
		a.say("unlink none", unix.Unlink("none"))
		var one, two unix.Stat_t
		a.must(unix.Stat("file", &one))
		a.must(unix.Stat("second", &two))
		a.note("same %v links %d", one.Ino == two.Ino, two.Nlink)
		a.say("unlink", unix.Unlink("file"))
		a.must(unix.Stat("second", &two))
		a.note("links %d", two.Nlink)
		a.say("fsync", syncDir("."))
	}}
	all["directories in pieces"] = scene{run: func(a *account) {
		a.must(os.Mkdir("d", 0o755))
		for i := range 2000 {
			a.must(os.WriteFile("d/file"+itoa(i), nil, 0o644))
		}
		seen := map[string]int{}
		fd, err := unix.Open("d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		a.must(err)
		defer unix.Close(fd)
		var middle int64
		buf := make([]byte, 1024)
		removed := 0
		for round := 0; ; round++ {
			n, err := unix.Getdents(fd, buf)
			a.must(err)
			if n == 0 {
				break
			}
			for b := buf[:n]; len(b) > 0; {
				e := (*unix.Dirent)(unsafe.Pointer(&b[0]))
				name := string(bytes.TrimRight(b[19:e.Reclen], "\x00"))
				name, _, _ = strings.Cut(name, "\x00")
				seen[name]++
				if round == 10 {
					middle = e.Off
				}
				if name != "." && name != ".." && removed < 700 {
					a.must(unix.Unlink("d/" + name))
					removed++
				}
				b = b[e.Reclen:]
			}
		}
		twice := 0
		for _, n := range seen {
			if n > 1 {
				twice++
			}
		}
		a.note("seen %d, twice %d", len(seen), twice)
		_, err = unix.Seek(fd, middle, unix.SEEK_SET)
		a.say("seek", err)
		n, err := unix.Getdents(fd, buf)
		a.note("goes on %v %v", n > 0, err)
		_, err = unix.Getdents(fd, make([]byte, 8))
		a.say("tiny", err)
	}}
}
