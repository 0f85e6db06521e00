package main

import (
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

func lockThread() { runtime.LockOSThread() } // for good: the thread ends

func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// hostile are attempts that may end the process, or that change all of it: other than
// the system calls, Setresuid and Setresgid are for every thread.
func hostile(t *targets) map[string]func() error {
	attempts := map[string]func() error{
		"become another user":      func() error { return unix.Setresuid(-1, 12345, -1) },
		"become another group":     func() error { return unix.Setresgid(-1, 12345, -1) },
		"join groups":              func() error { return unix.Setgroups([]int{1}) },
		"mount a tmpfs":            func() error { return unix.Mount("probe", "/", "tmpfs", 0, "") },
		"mount a procfs":           func() error { return unix.Mount("proc", "/dev", "proc", 0, "") },
		"remount the root":         func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"unmount":                  func() error { return unix.Unmount("/lib", unix.MNT_DETACH) },
		"open a file system":       func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
		"clone a tree":             func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err },
		"change a mount":           func() error { return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_clr: 1}) },
		"pivot":                    func() error { return unix.PivotRoot("/", "/") },
		"make a user namespace":    func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"make a mount namespace":   func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		"make a network namespace": func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		"clone into a namespace":   func() error { return call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0) },
		"clone3 into a namespace": func() error {
			a := [11]uint64{unix.CLONE_NEWUSER, 0, 0, 0, uint64(unix.SIGCHLD)}
			return call(unix.SYS_CLONE3, pointer(&a), 88, 0)
		},
		"join a namespace": func() error { return unix.Setns(0, 0) },
		"trace its parent": func() error { return unix.PtraceAttach(1) },
		"be traced":        func() error { return call(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0) },
		"read the memory of another": func() error {
			b := make([]byte, 8)
			_, err := unix.ProcessVMReadv(1, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 4096, Len: 8}}, 0)
			return err
		},
		"write the memory of another": func() error {
			b := make([]byte, 8)
			_, err := unix.ProcessVMWritev(1, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 4096, Len: 8}}, 0)
			return err
		},
		"advise on the memory of another": func() error { return call(unix.SYS_PROCESS_MADVISE, 0, 0, 0) },
		"take a descriptor of another":    func() error { _, err := unix.PidfdGetfd(0, 0, 0); return err },
		"open a process":                  func() error { _, err := unix.PidfdOpen(1, 0); return err },
		"add a key": func() error {
			_, err := unix.AddKey("user", "probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return err
		},
		"find the host's keys": func() error {
			_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", "jail-test", 0)
			return err
		},
		"request a key":      func() error { _, err := unix.RequestKey("user", "probe", "", 0); return err },
		"load a BPF program": func() error { var a [120]byte; return call(unix.SYS_BPF, 0, pointer(&a[0]), 72) },
		"open performance events": func() error {
			_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: 112}, 0, -1, -1, 0)
			return err
		},
		"watch files by fanotify":    func() error { _, err := unix.FanotifyInit(0, 0); return err },
		"load a module":              func() error { return unix.InitModule([]byte("x"), "") },
		"load a module's file":       func() error { return unix.FinitModule(0, "", 0) },
		"remove a module":            func() error { return unix.DeleteModule("probe", unix.O_NONBLOCK) },
		"load another kernel":        func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0) },
		"load another kernel's file": func() error { return call(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0), 0) },
		"reboot":                     func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
		"set the clock":              func() error { return unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Nsec: -1}) },
		"tune the clock":             func() error { _, err := unix.Adjtimex(&unix.Timex{}); return err },
		"set the host's name":        func() error { return unix.Sethostname([]byte("probe")) },
		"set the domain's name":      func() error { return unix.Setdomainname([]byte("probe")) },
		"read the kernel's log":      func() error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil); return err },
		"switch swap off":            func() error { p := []byte{'/', 0}; return call(unix.SYS_SWAPOFF, pointer(&p[0]), 0, 0) },
		"keep accounts":              func() error { return unix.Acct("") },
		"read quotas":                func() error { return call(unix.SYS_QUOTACTL, 0x800001<<8, 0, 0) },
		"change its personality":     func() error { return call(unix.SYS_PERSONALITY, 0x0040000, 0, 0) },
		"hang the terminal up":       func() error { return call(unix.SYS_VHANGUP, 0, 0, 0) },
		"open by handle":             func() error { return byHandle(t, "/") },
		"leave by chroot":            leaveByChroot,
	}
	for name, f := range hostileHere() {
		attempts[name] = f
	}
	return attempts
}

// byHandle opens a file of the host by its handle, from a directory of the same
// file system.
func byHandle(t *targets, dir string) error {
	if len(t.Handle) == 0 {
		return errNothing
	}
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	fd, err := unix.OpenByHandleAt(at, unix.NewFileHandle(t.HandleType, t.Handle), unix.O_RDONLY)
	if err != nil {
		return err
	}
	// Where dir's file system is another one, it is at most a file with the same
	// number.
	content := make([]byte, 16)
	if n, err := unix.Read(fd, content); err != nil || string(content[:n]) != "a canary" {
		return errNothing
	}
	return nil
}

// leaveByChroot is the old way out of a root that was entered by chroot.
func leaveByChroot() error {
	var before, after unix.Stat_t
	if err := unix.Stat("/", &before); err != nil {
		return err
	}
	outside, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() && unix.Chroot(filepath.Join("/", entry.Name())) == nil {
			break
		}
	}
	if err := unix.Fchdir(outside); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Stat("/", &after); err != nil {
		return err
	}
	if before.Dev == after.Dev && before.Ino == after.Ino {
		return errNothing
	}
	return nil
}

// shared are attempts of a file server, below the directory that it serves.
func shared(t *targets, dir string) map[string]func() error {
	if dir == "" {
		return nil
	}
	attempts := map[string]func() error{
		"read a file above the share":     open(filepath.Join(dir, "../outside"), os.O_RDONLY),
		"write to a read-only mount":      func() error { return os.WriteFile(filepath.Join(dir, "readonly/probe"), nil, 0o600) },
		"open a file by handle":           func() error { return byHandle(t, dir) },
		"open a file by a mount's handle": func() error { return byHandle(t, filepath.Join(dir, "mounted")) },
		"follow a link out of the share":  open(filepath.Join(dir, "mounted/link"), os.O_RDONLY),
	}
	for name, number := range map[string]uint64{"/dev/null": unix.Mkdev(1, 3), "a disk": unix.Mkdev(254, 0), "/dev/mem": unix.Mkdev(1, 1)} {
		attempts["make and open "+name+" in the share"] = func() error {
			path := filepath.Join(dir, "mounted/probe-device")
			mode := uint32(unix.S_IFCHR | 0o600)
			if name == "a disk" {
				mode = unix.S_IFBLK | 0o600
			}
			if err := unix.Mknod(path, mode, int(number)); err != nil {
				return err
			}
			defer os.Remove(path)
			return open(path, os.O_RDWR)()
		}
	}
	return attempts
}
