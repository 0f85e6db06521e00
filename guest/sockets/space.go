package sockets

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// space is a container's mount namespace.
type space struct{ file *os.File }

// openSpace opens the mount namespace of a process.
func openSpace(pid int) (*space, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("open the mount namespace of process %d: %w", pid, err)
	}
	return &space{file: file}, nil
}

// Close lets go of the namespace.
func (s *space) Close() error { return s.file.Close() }

// run calls f in the namespace, on a thread of its own that ends afterwards.
func (s *space) run(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end, and stands for the process in
			// /proc/PID. It is kept until another has done it.
			defer runtime.UnlockOSThread()
			result <- s.run(f)
			return
		}
		result <- s.enter(f) // never unlocked: the thread ends with the goroutine
	}()
	return <-result
}

func (s *space) enter(f func() error) error {
	// A thread that shares its root with others may not change it.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the agent's root directory: %w", err)
	}
	if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter a container's mount namespace: %w", err)
	}
	return f()
}

// resolveAttempts is how often a path is resolved before a container is taken
// for too busy.
const resolveAttempts = 1000

// errOtherMount says that a mount's place shows something else.
var errOtherMount = errors.New("something else is mounted there")

// open opens the directory at which source, a path of the agent's, is mounted.
func (s *space) open(destination, source string) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	origin, err := unix.Open(source, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", source, err)
	}
	defer unix.Close(origin)
	var file *os.File
	err = s.run(func() error {
		root, err := unix.Open("/", flags, 0)
		if err != nil {
			return fmt.Errorf("open the container's root directory: %w", err)
		}
		defer unix.Close(root)
		var fd int
		err = unix.EAGAIN
		// The kernel gives up on a path with ".." when anything was renamed or
		// mounted meanwhile (openat2(2), EAGAIN).
		for try := 0; try < resolveAttempts && errors.Is(err, unix.EAGAIN); try++ {
			fd, err = unix.Openat2(root, destination, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		}
		if err != nil {
			return fmt.Errorf("open %s in the container: %w", destination, err)
		}
		file = os.NewFile(uintptr(fd), destination)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err = sameDirectory(origin, int(file.Fd())); err != nil {
		file.Close()
		return nil, fmt.Errorf("open %s in the container: %w", destination, err)
	}
	return file, nil
}

// sameDirectory compares by what stays the same when the guest's kernel mounts
// one directory of the share twice: each mount namespace may get a mount of its
// own, with a device number of its own.
func sameDirectory(a, b int) error {
	var stats [2]unix.Stat_t
	var systems [2]unix.Statfs_t
	for i, fd := range []int{a, b} {
		if err := errors.Join(unix.Fstat(fd, &stats[i]), unix.Fstatfs(fd, &systems[i])); err != nil {
			return fmt.Errorf("compare it with the share: %w", err)
		}
	}
	if stats[0].Ino != stats[1].Ino || systems[0].Type != systems[1].Type {
		return errOtherMount
	}
	return nil
}
