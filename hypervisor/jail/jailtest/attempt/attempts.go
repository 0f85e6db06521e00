package attempt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var errNothing = errors.New("nothing was reached")

func open(path string, flags int) func() error {
	return func() error {
		file, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
		if err == nil {
			file.Close()
		}
		return err
	}
}

// files are of the host.
func files(t *Targets) map[string]func() error {
	attempts := map[string]func() error{
		"make a file in the root":  func() error { return os.WriteFile("/probe", nil, 0o600) },
		"make a file in /dev":      func() error { return os.WriteFile("/dev/probe", nil, 0o600) },
		"make a file in /tmp":      func() error { return os.WriteFile("/tmp/probe", nil, 0o600) },
		"write to its own program": open(os.Args[0], os.O_WRONLY),
		"remove its own program":   func() error { return os.Remove(os.Args[0]) },
		"link its own program":     func() error { return os.Link(os.Args[0], os.Args[0]+"2") },
		"change the root's mode":   func() error { return os.Chmod("/", 0o777) },
	}
	for _, path := range append([]string{
		"/etc/passwd", "/etc/shadow", "/etc/hostname", "/root", "/home", "/tmp", "/run", "/var", "/var/run/docker.sock", "/run/containerd/containerd.sock",
		"/run/kata-jail", "/run/kata-jail/users", "/run/kata-runtime", "/run/kata-containers", "/boot", "/sys", "/sys/kernel", "/sys/kernel/debug",
		"/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/bpf", "/sys/class/net", "/sys/bus/pci/devices", "/sys/power/state", "/sys/module",
		"/proc/1", "/proc/1/environ", "/proc/1/mem", "/proc/1/root", "/proc/1/ns/mnt", "/proc/2/stat", "/proc/self/root/etc/passwd", "/proc/self/root/proc/1/environ",
		"/proc/self/../1/environ", "/proc/self/task/../../2/stat", "/proc/self/cwd/etc/shadow", "/proc/sysrq-trigger", "/proc/kcore", "/proc/kallsyms",
		"/proc/keys", "/proc/net/unix", "/proc/mounts", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
		"/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/net/tun", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/vsock",
		"/dev/vfio/vfio", "/dev/pts/0", "/dev/ptmx", "/dev/shm", "/dev/tty", "/dev/console", "/dev/loop-control", "/dev/userfaultfd", "/dev/mapper/control",
		"../../../etc/passwd", "/../etc/shadow", "/usr/bin/env", "/bin/sh",
	}, t.Files...) {
		// Some are there for its program and its kernel, or on the way to what it serves.
		given := slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, path+"/") })
		if !given && !strings.HasPrefix(t.Share, path+"/") {
			attempts["read "+path] = open(path, os.O_RDONLY)
		}
	}
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/fs/file-max", "/proc/self/oom_score_adj", "/proc/self/coredump_filter",
		"/proc/self/uid_map", "/proc/self/setgroups", "/proc/self/attr/exec", "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/mm/ksm/run", "/etc/passwd",
	} {
		attempts["write to "+path] = open(path, os.O_WRONLY)
	}
	return attempts
}

// sockets of each family, and those of the host.
func sockets(t *Targets) map[string]func() error {
	attempts := map[string]func() error{}
	for family := range 48 {
		if family == unix.AF_UNIX {
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			attempts[fmt.Sprintf("a socket of family %d, type %d", family, kind)] = func() error {
				fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					_ = unix.Close(fd)
				}
				return err
			}
		}
		attempts[fmt.Sprintf("a pair of sockets of family %d", family)] = func() error {
			pair, err := unix.Socketpair(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				_, _ = unix.Close(pair[0]), unix.Close(pair[1])
			}
			return err
		}
	}
	for _, name := range append([]string{"@/org/freedesktop/systemd1/notify", "@/tmp/dbus", "/run/systemd/notify", "/run/dbus/system_bus_socket", "/dev/log"}, t.Sockets...) {
		for _, network := range []string{"unix", "unixgram", "unixpacket"} {
			attempts["connect to "+network+" "+name] = func() error {
				conn, err := dial(network, name)
				if err == nil {
					conn.Close()
				}
				return err
			}
		}
	}
	for _, address := range append([]string{"127.0.0.1:22", "169.254.169.254:80"}, t.Addresses...) {
		attempts["connect to "+address] = func() error {
			conn, err := dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err
		}
	}
	for _, cid := range []uint32{0, unix.VMADDR_CID_LOCAL, unix.VMADDR_CID_HOST, 3, 4} {
		attempts[fmt.Sprintf("connect to port 1024 of CID %d", cid)] = func() error {
			fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: 1024})
		}
	}
	return attempts
}

func dial(network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), network, address)
}

// processes are others.
func processes(t *Targets) map[string]func() error {
	attempts := map[string]func() error{
		"signal any other process": func() error {
			for pid := 2; pid < 400; pid++ {
				if unix.Kill(pid, 0) == nil {
					if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(pid)); err == nil {
						continue
					}
					if unix.Tgkill(os.Getpid(), pid, 0) == nil {
						continue // a thread of its own
					}
					return nil
				}
			}
			return errNothing
		},
		"signal the parent": func() error {
			if os.Getppid() == 0 {
				return errNothing
			}
			return unix.Kill(os.Getppid(), 0)
		},
		"outlive the parent": func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0) },
		"limit the parent": func() error {
			return unix.Prlimit(os.Getppid()+1<<30, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{})
		},
		"raise its priority": func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) },
		"run in real time": func() error {
			return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
		},
	}
	for i, pid := range t.Processes {
		attempts[fmt.Sprintf("signal process %d of the host's", i)] = func() error {
			if pid == os.Getpid() {
				return errNothing
			}
			return unix.Kill(pid, 0)
		}
	}
	return attempts
}

func call(number, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// privileges are what it is not to get back.
func privileges() map[string]func() error {
	attempts := map[string]func() error{
		"become root": func() error {
			if os.Getuid() == 0 {
				return errNothing
			}
			return unix.Setresuid(0, 0, 0)
		},
		"allow new privileges": func() error {
			return onThread(func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) })
		},
		"unlock securebits": func() error {
			return onThread(func() error { return unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0) })
		},
		"raise the limit of files": func() error {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
		},
		"raise the limit of cores": func() error {
			return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
		},
		"lock all memory": func() error { return unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT) },
		"use another program's image": func() error {
			return unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_EXE_FILE, 0, 0, 0)
		},
	}
	for _, capability := range []uintptr{
		unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_PTRACE, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_BPF,
		unix.CAP_SYS_RESOURCE, unix.CAP_KILL, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME, unix.CAP_LINUX_IMMUTABLE, unix.CAP_SYSLOG, unix.CAP_PERFMON,
		unix.CAP_IPC_LOCK, unix.CAP_SYS_NICE, unix.CAP_MAC_ADMIN, unix.CAP_AUDIT_CONTROL, unix.CAP_SYS_TTY_CONFIG, unix.CAP_CHECKPOINT_RESTORE,
	} {
		attempts[fmt.Sprintf("have capability %d", capability)] = func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var has [2]unix.CapUserData
			has[capability/32].Permitted = 1 << (capability % 32)
			return onThread(func() error { return unix.Capset(&header, &has[0]) })
		}
		attempts[fmt.Sprintf("have capability %d in its bounding set", capability)] = func() error {
			has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
			if err == nil && has == 0 {
				err = errNothing
			}
			return err
		}
	}
	return attempts
}

// onThread calls f on a thread that ends with what f changed of it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		lockThread()
		done <- f()
	}()
	return <-done
}

// kernel are parts of the kernel that fail without a word, or not.
func kernel() map[string]func() error {
	return map[string]func() error{
		"use io_uring":              func() error { var p [120]byte; return call(unix.SYS_IO_URING_SETUP, 1, pointer(&p[0]), 0) },
		"use userfaultfd":           func() error { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0) },
		"use userfaultfd for users": func() error { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0) },
		"list the host's interfaces": func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for _, name := range []string{"eth0", "ens3", "enp0s3", "docker0", "cni0", "wlan0"} {
				request, err := unix.NewIfreq(name)
				if err == nil && unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request) == nil {
					return nil
				}
			}
			return errNothing
		},
		"bring the loopback interface up": func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			request, err := unix.NewIfreq("lo")
			if err != nil {
				return err
			}
			request.SetUint16(unix.IFF_UP)
			return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
		},
		"make a bridge": func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			name := append([]byte("probe0"), 0)
			return call(unix.SYS_IOCTL, uintptr(fd), 0x89a0, pointer(&name[0]))
		},
	}
}

// devices are to be made, by their numbers, wherever it can.
func devices() map[string]func() error {
	attempts := map[string]func() error{}
	for name, number := range map[string]struct{ mode, major, minor uint32 }{
		"the first disk": {unix.S_IFBLK, 8, 0}, "a virtio disk": {unix.S_IFBLK, 254, 0}, "/dev/mem": {unix.S_IFCHR, 1, 1},
		"/dev/kmsg": {unix.S_IFCHR, 1, 11}, "/dev/net/tun": {unix.S_IFCHR, 10, 200}, "/dev/fuse": {unix.S_IFCHR, 10, 229}, "/dev/kvm": {unix.S_IFCHR, 10, 232},
	} {
		for _, dir := range []string{"/", "/dev", "/tmp"} {
			attempts["make and open "+name+" in "+dir] = func() error {
				path := filepath.Join(dir, "probe-device")
				if err := unix.Mknod(path, number.mode|0o600, int(unix.Mkdev(number.major, number.minor))); err != nil {
					return err
				}
				defer os.Remove(path)
				return open(path, os.O_RDWR)()
			}
		}
	}
	return attempts
}

// escapes leave the root by what is open.
func escapes() map[string]func() error {
	var root unix.Stat_t
	_ = unix.Stat("/", &root)
	attempts := map[string]func() error{}
	for fd := range 64 {
		attempts[fmt.Sprintf("leave by descriptor %d", fd)] = func() error {
			var stat unix.Stat_t
			path := ".."
			for range 40 {
				if err := unix.Fstatat(fd, path, &stat, 0); err != nil {
					return err
				}
				path += "/.."
			}
			if stat.Dev == root.Dev && stat.Ino == root.Ino {
				return errNothing
			}
			return nil
		}
		attempts[fmt.Sprintf("find the network namespace of descriptor %d", fd)] = func() error {
			ns, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x894c, 0) // SIOCGSKNS
			if errno != 0 {
				return errno
			}
			return unix.Close(int(ns))
		}
	}
	return attempts
}
