package harness

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// WaitExit waits for the end of any process, a child or not. A process that
// has gone already is one that has ended.
func (h *Host) WaitExit(pid int) {
	h.T.Helper()
	if !exited(h.T, pid, Patience) {
		h.T.Fatalf("process %d has not ended after %s", pid, Patience)
	}
}

// exited tells whether the process ends within the given time.
func exited(t testing.TB, pid int, within time.Duration) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		t.Fatalf("pidfd_open %d: %v", pid, err)
	}
	defer unix.Close(fd)
	return readable(t, fd, within)
}

// Reap waits for a process that was orphaned to this one, as a container
// manager does with the process in a pid file, and returns its exit code,
// 128+N for signal N.
func (h *Host) Reap(pid int) int {
	h.T.Helper()
	h.WaitExit(pid)
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			h.T.Fatalf("wait for process %d: %v", pid, err)
		}
		break
	}
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// WaitFile waits until the predicate holds, which is asked at first and each
// time that something happens to an entry of dir.
func (h *Host) WaitFile(dir string, holds func() bool) {
	h.T.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		h.T.Fatalf("inotify: %v", err)
	}
	defer unix.Close(fd)
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		h.T.Fatalf("watch %s: %v", dir, err)
	}
	buffer := make([]byte, 16<<10)
	for !holds() {
		if !readable(h.T, fd, Patience) {
			h.T.Fatalf("%s: what the test waits for has not come after %s", dir, Patience)
		}
		if _, err := unix.Read(fd, buffer); err != nil && !errors.Is(err, unix.EINTR) {
			h.T.Fatalf("read inotify: %v", err)
		}
	}
}

// WaitText waits until the file holds the text, and returns all that it holds.
func (h *Host) WaitText(path, text string) string {
	h.T.Helper()
	var content string
	h.WaitFile(filepath.Dir(path), func() bool {
		data, _ := os.ReadFile(path)
		content = string(data)
		return strings.Contains(content, text)
	})
	return content
}

func readable(t testing.TB, fd int, within time.Duration) bool {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatalf("poll: %v", err)
		}
		if n > 0 {
			return true
		}
	}
}

func signalOf(state *os.ProcessState) (int, bool) {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return 0, false
	}
	return int(status.Signal()), true
}

// ReapOrphans reaps, until the end of the test, the processes of these names that
// end after they were orphaned to this one, as the first process of a system
// does: the end of a PID namespace waits for each of its processes to be reaped,
// and one that entered it belongs to a parent outside. What the test starts
// itself has other names.
func (h *Host) ReapOrphans(names ...string) {
	h.T.Helper()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				h.reap(names...)
			case <-stop:
				return
			}
		}
	}()
	h.T.Cleanup(func() {
		signal.Stop(ended)
		close(stop)
		<-done
	})
}
