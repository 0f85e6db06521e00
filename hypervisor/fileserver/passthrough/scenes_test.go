package passthrough_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// acl makes an access control list: owner, group, others, and one more user or group.
func acl(user, group, mask, other uint16, users, groups map[uint32]uint16) []byte {
	var b bytes.Buffer
	put := func(tag, perm uint16, id uint32) {
		_ = binary.Write(&b, binary.LittleEndian, struct {
			Tag, Perm uint16
			ID        uint32
		}{tag, perm, id})
	}
	_ = binary.Write(&b, binary.LittleEndian, uint32(2))
	put(1, user, ^uint32(0))
	for id, p := range users {
		put(2, p, id)
	}
	put(4, group, ^uint32(0))
	for id, p := range groups {
		put(8, p, id)
	}
	put(16, mask, ^uint32(0))
	put(32, other, ^uint32(0))
	return b.Bytes()
}

// fileCapability is cap_net_raw=ep, as security.capability has it.
func fileCapability() []byte {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint32(b, 0x02000001)
	binary.LittleEndian.PutUint32(b[4:], 1<<13)
	return b
}

func makeAll(a *account, dir string) {
	f, err := os.OpenFile(dir+"/file", os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o666)
	if a.say("create", err) {
		_, err = f.WriteString("content")
		a.say("write", err)
		f.Close()
	}
	a.say("mkdir", unix.Mkdir(dir+"/dir", 0o777))
	a.say("symlink", os.Symlink("target", dir+"/symlink"))
	a.say("mkfifo", unix.Mkfifo(dir+"/fifo", 0o666))
	a.say("mknod", unix.Mknod(dir+"/node", unix.S_IFREG|0o666, 0))
	a.say("device", unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	a.say("whiteout", unix.Mknod(dir+"/whiteout", unix.S_IFCHR|0o666, 0))
	a.say("link", os.Link(dir+"/file", dir+"/linked"))
	a.say("rename", os.Rename(dir+"/linked", dir+"/renamed"))
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	a.must(err)
	defer unix.Close(s)
	back, err := os.Getwd()
	a.must(err)
	if a.say("chdir", os.Chdir(dir)) {
		a.say("bind", unix.Bind(s, &unix.SockaddrUnix{Name: "socket"}))
		a.must(os.Chdir(back))
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o666)
	if a.say("tmpfile", err) {
		a.say("link tmpfile", unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+itoa(fd), unix.AT_FDCWD, dir+"/from-tmpfile", unix.AT_SYMLINK_FOLLOW))
		unix.Close(fd)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func scenes() map[string]scene {
	all := map[string]scene{}
	permissionScenes(all)
	contentScenes(all)
	nameScenes(all)
	return all
}

func permissionScenes(all map[string]scene) {
	owned := func(gid int, mode uint32) func(a *account) {
		return func(a *account) {
			a.must(os.Mkdir("d", 0o755))
			a.must(os.Chown("d", 0, gid))
			a.must(unix.Chmod("d", mode))
		}
	}
	all["the user makes all in his own directory"] = scene{
		prepare: func(a *account) { a.must(os.Mkdir("d", 0o755)); a.must(os.Chown("d", 1000, 1000)) },
		run:     func(a *account) { makeAll(a, "d") },
	}
	all["root makes all"] = scene{root: true, prepare: owned(0, 0o755), run: func(a *account) { makeAll(a, "d") }}
	all["an fsGroup volume"] = scene{prepare: owned(2000, 0o2775), run: func(a *account) { makeAll(a, "d") }}
	all["a group's directory without setgid"] = scene{prepare: owned(2000, 0o775), run: func(a *account) { makeAll(a, "d") }}
	all["a directory of a foreign group"] = scene{prepare: owned(3000, 0o775), run: func(a *account) { makeAll(a, "d") }}
	all["setgid bits in a foreign setgid directory"] = scene{
		prepare: owned(3000, 0o2777),
		run: func(a *account) {
			unix.Umask(0)
			fd, err := unix.Open("d/file", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o2775)
			if a.say("create", err) {
				unix.Close(fd)
			}
			a.say("mkdir", unix.Mkdir("d/dir", 0o2755))
			a.say("mknod", unix.Mknod("d/node", unix.S_IFREG|0o2775, 0))
			a.say("chmod", unix.Chmod("d/file", 0o2775))
		},
	}
	all["setgid bits in his group's setgid directory"] = scene{
		prepare: owned(2000, 0o2777),
		run: func(a *account) {
			unix.Umask(0)
			fd, err := unix.Open("d/file", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o2775)
			if a.say("create", err) {
				unix.Close(fd)
			}
			a.say("chmod", unix.Chmod("d/file", 0o2771))
		},
	}
	all["a sticky directory"] = scene{
		prepare: func(a *account) {
			owned(0, 0o1777)(a)
			a.write("d/root", 0o666, "x")
			a.must(os.Mkdir("d/dir", 0o777))
		},
		run: func(a *account) {
			a.say("unlink", unix.Unlink("d/root"))
			a.say("rename", unix.Rename("d/root", "d/other"))
			a.say("rmdir", unix.Rmdir("d/dir"))
			makeAll(a, "d")
			a.say("unlink own", unix.Unlink("d/file"))
		},
	}
	all["umasks"] = scene{
		prepare: owned(1000, 0o777),
		run: func(a *account) {
			for _, mask := range []int{0, 0o22, 0o77, 0o777} {
				unix.Umask(mask)
				dir := "d/" + itoa(mask)
				a.say("mkdir", unix.Mkdir(dir, 0o7777))
				fd, err := unix.Open("d/file"+itoa(mask), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o6777)
				if a.say("create", err) {
					unix.Close(fd)
				}
				a.say("mkfifo", unix.Mkfifo("d/fifo"+itoa(mask), 0o777))
			}
		},
	}
	all["a default ACL"] = scene{
		prepare: func(a *account) {
			owned(1000, 0o777)(a)
			a.must(unix.Setxattr("d", "system.posix_acl_default", acl(7, 5, 7, 0, map[uint32]uint16{1234: 7}, nil), 0))
		},
		run: func(a *account) {
			unix.Umask(0o077)
			makeAll(a, "d")
		},
	}
	all["an ACL for the user"] = scene{
		prepare: func(a *account) {
			a.write("read", 0o600, "secret")
			a.must(unix.Setxattr("read", "system.posix_acl_access", acl(6, 0, 4, 0, map[uint32]uint16{1000: 4}, nil), 0))
			a.write("group", 0o600, "secret")
			a.must(unix.Setxattr("group", "system.posix_acl_access", acl(6, 0, 6, 0, nil, map[uint32]uint16{2000: 6}), 0))
			a.write("masked", 0o600, "secret")
			a.must(unix.Setxattr("masked", "system.posix_acl_access", acl(6, 0, 0, 0, map[uint32]uint16{1000: 7}, nil), 0))
		},
		run: func(a *account) {
			for _, name := range []string{"read", "group", "masked"} {
				b, err := os.ReadFile(name)
				a.say("read "+name+" "+string(b), err)
				f, err := os.OpenFile(name, os.O_WRONLY, 0)
				if a.say("write "+name, err) {
					f.Close()
				}
				a.say("access", unix.Access(name, unix.R_OK|unix.W_OK))
			}
			a.say("set", unix.Setxattr("read", "system.posix_acl_access", acl(7, 7, 7, 7, nil, nil), 0))
		},
	}
	all["an ACL ends setgid"] = scene{
		prepare: func(a *account) {
			a.write("file", 0o2755, "x")
			a.must(os.Chown("file", 1000, 3000))
			a.must(unix.Chmod("file", 0o2755))
		},
		run: func(a *account) {
			a.say("set", unix.Setxattr("file", "system.posix_acl_access", acl(7, 5, 5, 5, map[uint32]uint16{1: 1}, nil), 0))
		},
	}
	for _, who := range []string{"the user", "root"} {
		all[who+" writes to set-user-id files"] = scene{root: who == "root", prepare: func(a *account) {
			for _, n := range []string{"write", "pwrite", "truncate", "ftruncate", "otrunc", "fallocate", "mmap", "chown", "append", "copy"} {
				for _, mode := range []os.FileMode{0o4755, 0o2755, 0o6711, 0o2644} {
					name := n + itoa(int(mode))
					a.write(name, mode, "some content")
					a.must(os.Chown(name, 1000, 1000))
					a.must(unix.Chmod(name, uint32(mode)))
				}
			}
		}, run: func(a *account) { writeAll(a) }}
	}
	all["file capabilities end"] = scene{root: true, prepare: func(a *account) {
		for _, n := range []string{"write", "truncate", "otrunc", "chown", "chmod", "read"} {
			a.write(n, 0o755, "some content")
			a.must(unix.Setxattr(n, "security.capability", fileCapability(), 0))
		}
	}, run: func(a *account) {
		f, err := os.OpenFile("write", os.O_WRONLY, 0)
		a.must(err)
		_, err = f.WriteString("x")
		a.say("write", err)
		f.Close()
		a.say("truncate", unix.Truncate("truncate", 3))
		f, err = os.OpenFile("otrunc", os.O_WRONLY|os.O_TRUNC, 0)
		if a.say("otrunc", err) {
			f.Close()
		}
		a.say("chown", unix.Chown("chown", 5, 5))
		a.say("chmod", unix.Chmod("chmod", 0o700))
	}}
	all["what is not the user's"] = scene{prepare: func(a *account) {
		a.write("file", 0o644, "x")
		a.write("open", 0o666, "x")
		a.must(os.Mkdir("closed", 0o700))
		a.write("closed/file", 0o666, "x")
		a.write("mine", 0o600, "x")
		a.must(os.Chown("mine", 1000, 1000))
	}, run: func(a *account) {
		a.say("chmod", unix.Chmod("file", 0o777))
		a.say("chown", unix.Chown("file", 1000, 1000))
		a.say("give away", unix.Chown("mine", 5, -1))
		a.say("to his group", unix.Chown("mine", -1, 2000))
		a.say("to a foreign group", unix.Chown("mine", -1, 3000))
		a.say("times", unix.UtimesNanoAt(unix.AT_FDCWD, "open", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
		a.say("times now", unix.UtimesNanoAt(unix.AT_FDCWD, "open", nil, 0))
		a.say("truncate", unix.Truncate("file", 0))
		a.say("closed", unix.Access("closed/file", unix.R_OK))
		a.say("trusted", unix.Setxattr("mine", "trusted.x", []byte("x"), 0))
		a.say("security", unix.Setxattr("mine", "security.x", []byte("x"), 0))
		a.say("user of another", unix.Setxattr("file", "user.x", []byte("x"), 0))
		a.say("user", unix.Setxattr("mine", "user.x", []byte("x"), 0))
		_, err := unix.Getxattr("mine", "trusted.x", nil)
		a.say("get trusted", err)
	}}
}

func writeAll(a *account) {
	for _, mode := range []string{itoa(0o4755), itoa(0o2755), itoa(0o6711), itoa(0o2644)} {
		open := func(name string, flags int) *os.File {
			f, err := os.OpenFile(name+mode, flags, 0)
			a.must(err)
			return f
		}
		f := open("write", os.O_RDWR)
		_, err := f.WriteString("x")
		a.say("write", err)
		f.Close()
		f = open("pwrite", os.O_RDWR)
		_, err = f.WriteAt([]byte("x"), 100)
		a.say("pwrite", err)
		f.Close()
		f = open("append", os.O_WRONLY|os.O_APPEND)
		_, err = f.WriteString("x")
		a.say("append", err)
		f.Close()
		a.say("truncate", unix.Truncate("truncate"+mode, 3))
		f = open("ftruncate", os.O_RDWR)
		a.say("ftruncate", f.Truncate(2))
		f.Close()
		f = open("otrunc", os.O_RDWR|os.O_TRUNC)
		f.Close()
		f = open("fallocate", os.O_RDWR)
		a.say("fallocate", unix.Fallocate(int(f.Fd()), 0, 0, 10000))
		f.Close()
		f = open("copy", os.O_RDWR)
		from := open("chown", os.O_RDONLY)
		_, err = unix.CopyFileRange(int(from.Fd()), nil, int(f.Fd()), nil, 5, 0)
		a.say("copy", err)
		from.Close()
		f.Close()
		a.say("chown", unix.Chown("chown"+mode, 1000, 1000))
	}
}

func contentScenes(all map[string]scene) {
	all["attributes"] = scene{root: true, run: func(a *account) {
		a.write("file", 0o644, "x")
		a.must(os.Symlink("file", "link"))
		for _, n := range []string{"user.a", "trusted.a", "trusted.overlay.opaque", "user.overlay.opaque", "security.a", "user.", "system.a", "other.a", ""} {
			a.say("set "+n, unix.Setxattr("file", n, []byte("value of "+n), 0))
			a.say("set on link "+n, unix.Lsetxattr("link", n, []byte("x"), 0))
		}
		a.say("create again", unix.Setxattr("file", "user.a", nil, unix.XATTR_CREATE))
		a.say("replace", unix.Setxattr("file", "user.a", []byte("new"), unix.XATTR_REPLACE))
		a.say("replace none", unix.Setxattr("file", "user.none", nil, unix.XATTR_REPLACE))
		_, err := unix.Getxattr("file", "user.a", make([]byte, 1))
		a.say("short", err)
		n, err := unix.Getxattr("file", "trusted.a", nil)
		a.note("size %d", n)
		a.say("size", err)
		_, err = unix.Getxattr("file", "trusted.none", nil)
		a.say("none", err)
		a.say("long name", unix.Setxattr("file", "user."+strings.Repeat("x", 251), nil, 0))
		a.say("remove", unix.Removexattr("file", "trusted.a"))
		a.say("remove again", unix.Removexattr("file", "trusted.a"))
		_, err = unix.Listxattr("file", make([]byte, 3))
		a.say("short list", err)
	}}
	all["holes"] = scene{run: func(a *account) {
		f, err := os.OpenFile("file", os.O_CREATE|os.O_RDWR, 0o644)
		a.must(err)
		defer f.Close()
		fd := int(f.Fd())
		data := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		_, err = f.WriteAt(data, 0)
		a.say("write", err)
		_, err = f.WriteAt(data, 1<<20)
		a.say("write", err)
		seek := func(off int64, whence int) {
			at, err := unix.Seek(fd, off, whence)
			a.note("seek %d %d: %d %v", off, whence, at, err)
		}
		for _, off := range []int64{0, 1, 65536, 70000, 1 << 20, 1<<20 + 65536, 1 << 30, -1} {
			seek(off, unix.SEEK_DATA)
			seek(off, unix.SEEK_HOLE)
		}
		for _, mode := range []uint32{
			0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
			unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE, 1 << 20,
		} {
			a.say("fallocate "+itoa(int(mode)), unix.Fallocate(fd, mode, 4096, 8192))
		}
		a.sum("file")
		a.say("collapse", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096))
		a.say("insert", unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 0, 4096))
		a.say("past the end", unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 1<<21, 4096))
		a.stat("file")
	}}
	all["open and unlinked"] = scene{root: true, run: func(a *account) {
		f, err := os.OpenFile("file", os.O_CREATE|os.O_RDWR, 0o644)
		a.must(err)
		defer f.Close()
		fd := int(f.Fd())
		_, err = f.WriteString("content")
		a.must(err)
		a.say("unlink", unix.Unlink("file"))
		var st unix.Stat_t
		a.say("fstat", unix.Fstat(fd, &st))
		a.note("links %d size %d", st.Nlink, st.Size)
		a.say("truncate", f.Truncate(3))
		a.say("chmod", f.Chmod(0o600))
		a.say("chown", f.Chown(5, 6))
		a.say("xattr", unix.Fsetxattr(fd, "user.x", []byte("y"), 0))
		n, err := unix.Fgetxattr(fd, "user.x", make([]byte, 10))
		a.note("xattr %d %v", n, err)
		a.say("times", unix.Futimes(fd, []unix.Timeval{{Sec: 1}, {Sec: 2}}))
		a.say("again", unix.Fstat(fd, &st))
		a.note("mode %o owner %d:%d size %d mtime %d", st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Sec)
		b := make([]byte, 10)
		n, err = f.ReadAt(b, 0)
		a.note("read %q %v", b[:n], err)
		again, err := os.OpenFile("/proc/self/fd/"+itoa(fd), os.O_RDWR, 0)
		if a.say("open again", err) {
			again.Close()
		}
	}}
	all["a directory that is gone"] = scene{run: func(a *account) {
		a.must(os.Mkdir("d", 0o755))
		d, err := os.Open("d")
		a.must(err)
		defer d.Close()
		a.say("rmdir", unix.Rmdir("d"))
		_, err = unix.Openat(int(d.Fd()), "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		a.say("create in it", err)
		n, err := d.Readdirnames(-1)
		a.note("read %v %v", n, err)
		var st unix.Stat_t
		a.say("fstat", unix.Fstat(int(d.Fd()), &st))
		a.note("links %d", st.Nlink)
	}}
	all["copies, maps and direct input"] = scene{run: func(a *account) {
		content := bytes.Repeat([]byte("0123456789abcdef"), 1024)
		a.must(os.WriteFile("from", content, 0o644))
		from, err := os.Open("from")
		a.must(err)
		defer from.Close()
		to, err := os.OpenFile("to", os.O_CREATE|os.O_RDWR, 0o644)
		a.must(err)
		defer to.Close()
		offIn, offOut := int64(10), int64(20)
		n, err := unix.CopyFileRange(int(from.Fd()), &offIn, int(to.Fd()), &offOut, 1000, 0)
		a.note("copied %d %v", n, err)
		m, err := unix.Mmap(int(to.Fd()), 0, 1000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if a.say("map", err) {
			copy(m[100:], "through the map")
			a.say("sync", unix.Msync(m, unix.MS_SYNC))
			a.must(unix.Munmap(m))
		}
		b := make([]byte, 2000)
		n, _ = to.ReadAt(b, 0)
		a.note("%q", b[:n])
		fd, err := unix.Open("from", unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if a.say("direct", err) {
			page, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			a.must(err)
			n, err = unix.Pread(fd, page[:4096], 4096)
			a.note("read %d %v %q", n, err, page[:16])
			n, err = unix.Pwrite(fd, page[4096:], 0)
			a.note("write %d %v", n, err)
			unix.Close(fd)
		}
		read, err := os.ReadFile("from")
		a.note("%d %q %q %v", len(read), read[:4], read[4096:4100], err)
	}}
	all["flags of open"] = scene{run: func(a *account) {
		a.must(os.WriteFile("file", []byte("content"), 0o644))
		a.must(os.Mkdir("dir", 0o755))
		a.must(os.Symlink("file", "link"))
		a.must(os.Symlink("nowhere", "dangling"))
		a.must(os.Symlink("loop", "loop"))
		a.must(unix.Mkfifo("fifo", 0o644))
		for _, n := range []string{"file", "dir", "link", "dangling", "loop", "fifo", "none", "file/x"} {
			for _, f := range []int{
				unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_DIRECTORY, unix.O_RDONLY | unix.O_NOFOLLOW,
				unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL, unix.O_WRONLY | unix.O_APPEND, unix.O_RDONLY | unix.O_TRUNC, unix.O_PATH,
				unix.O_RDONLY | unix.O_SYNC, unix.O_RDONLY | unix.O_NOATIME,
			} {
				fd, err := unix.Open(n, f|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
				if a.say("open "+n+" "+itoa(f), err) {
					unix.Close(fd)
				}
			}
		}
		fd, err := unix.Open("file", unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
		a.must(err)
		_, err = unix.Pwrite(fd, []byte("end"), 0)
		a.say("append", err)
		_, err = unix.Read(fd, make([]byte, 1))
		a.say("read what is for writing", err)
		unix.Close(fd)
		b, err := os.ReadFile("file")
		a.note("%q %v", b, err)
		a.say("truncate", unix.Truncate("file", -1))
		a.say("truncate a directory", unix.Truncate("dir", 1))
		a.say("grow", unix.Truncate("file", 1<<40))
	}}
	all["times"] = scene{run: func(a *account) {
		a.must(os.WriteFile("file", nil, 0o644))
		a.must(os.Symlink("file", "link"))
		for _, ts := range [][]unix.Timespec{
			{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 4}},
			{{Sec: -5}, {Sec: -6, Nsec: 7}},
			{{Nsec: unix.UTIME_OMIT}, {Sec: 9}},
			{{Sec: 10}, {Nsec: unix.UTIME_OMIT}},
			{{Sec: 1 << 33}, {Sec: 1 << 33}},
		} {
			for _, n := range []string{"file", "link"} {
				a.say("set", unix.UtimesNanoAt(unix.AT_FDCWD, n, ts, unix.AT_SYMLINK_NOFOLLOW))
				var st unix.Statx_t
				a.say("statx", unix.Statx(unix.AT_FDCWD, n, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
				a.note("%d.%d %d.%d born %v", st.Atime.Sec, st.Atime.Nsec, st.Mtime.Sec, st.Mtime.Nsec, st.Mask&unix.STATX_BTIME != 0 && st.Btime.Sec > 0)
			}
		}
	}}
}

// sum notes what a file contains.
func (a *account) sum(name string) {
	content, err := os.ReadFile(name)
	a.must(err)
	a.note("content %08x", crc32.ChecksumIEEE(content))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
