package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// errPodGone is why a command's work ends whose stand-in has.
var errPodGone = errors.New("the container was deleted, or its supervisor has died, meanwhile")

// whileAlive returns a context that ends with a process, with errPodGone as its
// cause. stop must be called.
func whileAlive(ctx context.Context, pid int) (_ context.Context, stop func(), err error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := raw.Read(ended); err == nil { // an error: stop has closed it
			cancel(errPodGone)
		}
	}()
	return ctx, func() {
		file.Close()
		<-done
		cancel(nil)
	}, nil
}

// ended tells whether the process behind a pidfd has ended.
func ended(pidfd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}
