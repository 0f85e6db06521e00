package jail

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// verdict runs a filter on one system call, as the kernel does.
func verdict(t *testing.T, program []unix.SockFilter, number, architecture, first uint32) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[offsetNumber:], number)
	binary.LittleEndian.PutUint32(data[offsetArchitecture:], architecture)
	binary.LittleEndian.PutUint32(data[offsetFirstLow:], first)
	var a uint32
	for at := 0; at < len(program); at++ {
		i := program[at]
		jump := func(holds bool) {
			if holds {
				at += int(i.Jt)
			} else {
				at += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= i.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&i.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d is %+v", at, i)
		}
	}
	t.Fatal("ran off the end")
	return 0
}

func TestFilter(t *testing.T) {
	const (
		kill   = unix.SECCOMP_RET_KILL_PROCESS
		allow  = unix.SECCOMP_RET_ALLOW
		absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		family = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
		own    = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	)
	some := SystemCalls{Allowed: []uintptr{unix.SYS_READ, unix.SYS_CLONE, unix.SYS_SOCKET, unix.SYS_MOUNT, unix.SYS_PRCTL}}
	thread := uint32(unix.CLONE_VM | unix.CLONE_THREAD)
	for _, c := range []struct {
		name           string
		number, first  uint32
		listed, others uint32 // with some allowed, with all but hostile ones
	}{
		{"an allowed one", unix.SYS_READ, 0, allow, allow},
		{"one that is not", unix.SYS_WRITE, 0, absent, allow},
		{"one that no kernel has", 3000, 0, absent, allow},
		{"a hostile one", unix.SYS_PTRACE, 0, kill, kill},
		{"a hostile one that is allowed", unix.SYS_MOUNT, 0, kill, kill},
		{"a thread", unix.SYS_CLONE, thread, allow, allow},
		{"a user namespace", unix.SYS_CLONE, unix.CLONE_NEWUSER, kill, kill},
		{"a network namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNET, kill, kill},
		{"a time namespace", unix.SYS_UNSHARE, unix.CLONE_NEWTIME, kill, kill},
		{"a working directory of its own", unix.SYS_UNSHARE, unix.CLONE_FS, absent, allow},
		{"flags in memory", unix.SYS_CLONE3, 0, absent, absent},
		{"a unix socket", unix.SYS_SOCKET, unix.AF_UNIX, allow, allow},
		{"a file by its handle", unix.SYS_OPEN_BY_HANDLE_AT, 0, own, own},
		{"a ring of system calls", unix.SYS_IO_URING_SETUP, 0, absent, absent},
		{"to outlive its parent", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, own, own},
		{"to name a thread", unix.SYS_PRCTL, unix.PR_SET_NAME, allow, allow},
		{"a vsock socket", unix.SYS_SOCKET, unix.AF_VSOCK, family, family},
	} {
		if got := verdict(t, some.program(), c.number, architecture, c.first); got != c.listed {
			t.Errorf("%s, of a list: %#x, want %#x", c.name, got, c.listed)
		}
		if got := verdict(t, new(SystemCalls).program(), c.number, architecture, c.first); got != c.others {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.others)
		}
	}
	handles := SystemCalls{Allowed: []uintptr{unix.SYS_OPEN_BY_HANDLE_AT}}
	if got := verdict(t, handles.program(), unix.SYS_OPEN_BY_HANDLE_AT, architecture, 0); got != allow {
		t.Errorf("a file by its handle, where that is listed: %#x", got)
	}
	if got := verdict(t, some.program(), unix.SYS_READ, architecture+1, 0); got != kill {
		t.Errorf("of another architecture: %#x", got)
	}
	if foreignNumbers > 0 {
		if got := verdict(t, some.program(), foreignNumbers+unix.SYS_READ, architecture, 0); got != kill {
			t.Errorf("of the second ABI: %#x", got)
		}
	}
}
