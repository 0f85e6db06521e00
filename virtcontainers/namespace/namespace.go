// Package namespace owns the question which of the host's kernel namespaces a
// path or an open file names, and whether it is one that the host itself lives
// in. A namespace is its device and inode number (namespaces(7)); the paths to it
// are many: /run/netns/x, /proc/PID/ns/net, a bind mount of a manager's own.
package namespace

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrHost is wrapped by RefuseHost's error.
var ErrHost = errors.New("it is the host's own")

// kind is what the kernel calls a type of namespace.
type kind struct {
	file string // its name below /proc/PID/ns
	flag int    // of clone(2) and of NS_GET_NSTYPE, ioctl_ns(2)
}

func kindOf(t specs.LinuxNamespaceType) (kind, error) {
	switch t {
	case specs.PIDNamespace:
		return kind{"pid", unix.CLONE_NEWPID}, nil
	case specs.NetworkNamespace:
		return kind{"net", unix.CLONE_NEWNET}, nil
	case specs.MountNamespace:
		return kind{"mnt", unix.CLONE_NEWNS}, nil
	case specs.IPCNamespace:
		return kind{"ipc", unix.CLONE_NEWIPC}, nil
	case specs.UTSNamespace:
		return kind{"uts", unix.CLONE_NEWUTS}, nil
	case specs.UserNamespace:
		return kind{"user", unix.CLONE_NEWUSER}, nil
	case specs.CgroupNamespace:
		return kind{"cgroup", unix.CLONE_NEWCGROUP}, nil
	case specs.TimeNamespace:
		return kind{"time", unix.CLONE_NEWTIME}, nil
	default:
		return kind{}, fmt.Errorf("namespace %q does not exist", t)
	}
}

// OfProcess is the path of the namespace that a process is in.
func OfProcess(pid int, t specs.LinuxNamespaceType) string {
	k, err := kindOf(t)
	if err != nil {
		k.file = string(t) // opening it fails
	}
	return fmt.Sprintf("/proc/%d/ns/%s", pid, k.file)
}

// Same tells whether two paths lead to the same namespace.
func Same(path, other string) (bool, error) {
	one, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("find a namespace: %w", err)
	}
	two, err := os.Stat(other)
	if err != nil {
		return false, fmt.Errorf("find a namespace: %w", err)
	}
	return os.SameFile(one, two), nil
}

// Open opens the namespace of type t at path. It is an error if there is
// something else, or a namespace of another type.
func Open(t specs.LinuxNamespaceType, path string) (*os.File, error) {
	k, err := kindOf(t)
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: the path may be a FIFO.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the %s namespace: %w", t, err)
	}
	if !is(file, k) {
		return nil, errors.Join(fmt.Errorf("%s is not a %s namespace", path, t), file.Close())
	}
	return file, nil
}

func is(file *os.File, k kind) bool {
	flag, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	return err == nil && flag == k.flag
}

// firstDynamic is the lowest inode number of a namespace that was made after the
// kernel's start: those of the initial namespaces are below it (PROC_DYNAMIC_FIRST
// in include/linux/proc_ns.h; that of the network namespace since Linux 6.18).
const firstDynamic = 0xF0000000

// IsHost tells whether an open namespace of type t is one that the host lives
// in: that of this process, that of PID 1, or the kernel's initial one. They differ
// where the runtime, or the manager that calls it, was started in a namespace of
// its own: what it is in is the host's for its containers.
func IsHost(t specs.LinuxNamespaceType, file *os.File) (bool, error) {
	if k, err := kindOf(t); err != nil || !is(file, k) {
		return false, errors.Join(fmt.Errorf("%s is not a %s namespace", file.Name(), t), err)
	}
	theirs, err := file.Stat()
	if err != nil {
		return false, fmt.Errorf("identify the %s namespace: %w", t, err)
	}
	if stat, ok := theirs.Sys().(*syscall.Stat_t); ok && stat.Ino < firstDynamic {
		return true, nil
	}
	// The process's first thread stands for it; package osthread leaves that one
	// where it is.
	own, err := os.Stat(OfProcess(os.Getpid(), t))
	if err != nil {
		return false, fmt.Errorf("identify the runtime's own %s namespace: %w", t, err)
	}
	if os.SameFile(own, theirs) {
		return true, nil
	}
	first, err := os.Stat(OfProcess(1, t))
	switch {
	case errors.Is(err, os.ErrPermission):
		return false, nil // root may be kept from looking at PID 1; the above has to do
	case err != nil:
		return false, fmt.Errorf("identify PID 1's %s namespace: %w", t, err)
	default:
		return os.SameFile(first, theirs), nil
	}
}

// PathIsHost is IsHost for the namespace at path. Whoever opens the path again
// may find another namespace there: see RefuseHost.
func PathIsHost(t specs.LinuxNamespaceType, path string) (bool, error) {
	file, err := Open(t, path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return IsHost(t, file)
}

// RefuseHost returns an error, which wraps ErrHost, when an open namespace is
// one that the host lives in. To be called before anything is attached to it.
func RefuseHost(t specs.LinuxNamespaceType, file *os.File) error {
	hosts, err := IsHost(t, file)
	if err == nil && hosts {
		err = fmt.Errorf("use the %s namespace %s for a pod: %w", t, file.Name(), ErrHost)
	}
	return err
}
