package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// awaitEmpty waits for the end of each process in a group. It lists threads:
// an ending process leaves the list of processes early, and the group not
// before it has released its memory, which takes long for a VMM's.
func awaitEmpty(ctx context.Context, dir string) error {
	for {
		data, err := readThreads(dir)
		if isGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list its processes: %w", err)
		}
		waited := false
		for field := range strings.FieldsSeq(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("list its processes: %w", err)
			}
			ended, err := awaitExit(ctx, pid)
			if err != nil {
				return err
			}
			waited = waited || ended
		}
		if !waited {
			return nil
		}
	}
}

// isGone tells whether a group's file cannot be read because the group is gone, which
// somebody else may remove: systemd does so with a scope as soon as it is empty. Who has
// the file open by then is told that there is no such device.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// readThreads reads the group's thread list under either version's name.
func readThreads(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, "tasks"))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(dir, "cgroup.threads"))
	}
	return data, err
}

// awaitExit waits until a process has ended, and tells whether it was one: not
// a thread of another's, gone already, or of another PID namespace.
func awaitExit(ctx context.Context, pid int) (bool, error) {
	if pid == 0 {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return false, fmt.Errorf("watch process %d: %w", pid, err)
	}
	defer unix.Close(wake)
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-interrupted // before the descriptor is closed
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("watch process %d: %w", pid, err)
		case fds[0].Revents != 0:
			return true, nil
		default:
			return false, fmt.Errorf("process %d is still in it: %w", pid, context.Cause(ctx))
		}
	}
}
