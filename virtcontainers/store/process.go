package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// StartTime is when a process started, in clock ticks since the host's boot:
// field 22 of /proc/PID/stat. With the pid it names a process for good. No such
// process is fs.ErrNotExist.
func StartTime(pid int) (uint64, error) {
	_, start, err := processStat(pid)
	return start, err
}

// Alive tells whether the process that had this pid and start time runs. A
// zombie does not; nor does pid 0 or less.
func Alive(pid int, startTime uint64) bool {
	state, start, err := processStat(pid)
	return err == nil && start == startTime && state != 'Z' && state != 'X'
}

// processStat reads the state letter and the start time of a process.
func processStat(pid int) (state byte, start uint64, err error) {
	if pid <= 0 {
		return 0, 0, fmt.Errorf("read the start time of process %d: %w", pid, fs.ErrNotExist)
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	state, start, err = parseStat(string(data))
	if err != nil {
		return 0, 0, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	return state, start, nil
}

// parseStat reads fields 3 and 22. Field 2, the name in parentheses, may hold
// spaces and parentheses.
func parseStat(text string) (state byte, start uint64, err error) {
	end := strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[end+1:])
	// fields starts with field 3.
	const stateIndex, startIndex = 0, 19
	if end < 0 || len(fields) <= startIndex {
		return 0, 0, fmt.Errorf("malformed process status %q", text)
	}
	start, err = strconv.ParseUint(fields[startIndex], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("malformed process status: %w", err)
	}
	return fields[stateIndex][0], start, nil
}

// AwaitExit waits until a process has ended. One that is not there has.
func AwaitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer file.Close()
	if err := AwaitEnd(ctx, file); err != nil {
		return fmt.Errorf("wait for the end of process %d: %w", pid, err)
	}
	return nil
}

// AwaitEnd is AwaitExit for a process by its pidfd.
func AwaitEnd(ctx context.Context, pidfd *os.File) error {
	// A descriptor of its own: the goroutine may outlive the call.
	fd, err := unix.FcntlInt(pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { // ends with the process, or with this one
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
