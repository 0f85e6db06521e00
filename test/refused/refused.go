// Package refused finds the system calls that the kernel has refused to confined
// processes, in the kernel's log: a list that lacks one is found by tests, and not by
// users. The configuration has to let the kernel log them (log_refused_calls).
package refused

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Call is a system call that was refused.
type Call struct {
	// Program is the path of the process's.
	Program string
	Number  int
	// Signal ended the process; 0: the call failed.
	Signal int
}

// String names the call.
func (c Call) String() string {
	what := "failed"
	if c.Signal != 0 {
		what = fmt.Sprintf("ended the process by signal %d", c.Signal)
	}
	return fmt.Sprintf("%s: system call %d %s", c.Program, c.Number, what)
}

// Log is the kernel's, from the call of Open on. It is read as it is written: the kernel
// keeps little of it.
type Log struct {
	file *os.File
	// limit is of records; nil: some may be missing.
	limit *lifted

	reading chan struct{} // closed when follow has ended
	calls   []Call        // follow's, until it has ended
	failure error
}

// Open opens the log at its end. Until Close, the kernel leaves out nothing.
func Open() (*Log, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's log: %w", err)
	}
	l := &Log{file: os.NewFile(uintptr(fd), "/dev/kmsg")}
	if _, err := unix.Seek(fd, 0, io.SeekEnd); err != nil {
		return nil, errors.Join(fmt.Errorf("find the end of the kernel's log: %w", err), l.file.Close())
	}
	if l.limit, err = lift(rateLimit, filepath.Join(os.TempDir(), "kata-test-printk-ratelimit")); err != nil {
		l.limit = nil
	}
	l.start()
	return l, nil
}

func (l *Log) start() {
	l.reading = make(chan struct{})
	go func() {
		defer close(l.reading)
		l.follow()
	}()
}

// follow reads until the file's deadline, or its end.
func (l *Log) follow() {
	record := make([]byte, recordSize)
	for {
		n, err := l.file.Read(record)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.EPIPE):
			l.failure = ErrLost
		case err != nil:
			l.failure = fmt.Errorf("read the kernel's log: %w", err)
			return
		default:
			l.take(record[:n])
		}
	}
}

// recordSize is the kernel's longest record, in bytes.
const recordSize = 8192

func (l *Log) take(record []byte) {
	if call, ok := parse(string(record)); ok && !slices.Contains(l.calls, call) {
		l.calls = append(l.calls, call)
	}
}

// Close closes the log.
func (l *Log) Close() error {
	var err error
	if l.limit != nil {
		err = l.limit.restore()
	}
	err = errors.Join(err, l.file.Close())
	<-l.reading
	return err
}

// Calls returns what was refused since the last call. It wraps ErrLost if the kernel
// has dropped records that nobody read in time.
func (l *Log) Calls() ([]Call, error) {
	if err := l.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	<-l.reading
	l.drain()
	calls, failure := l.calls, l.failure
	l.calls, l.failure = nil, nil
	if err := l.file.SetReadDeadline(time.Time{}); err != nil {
		return calls, errors.Join(failure, err)
	}
	l.start()
	return calls, failure
}

// drain reads what is there, whatever the deadline.
func (l *Log) drain() {
	raw, err := l.file.SyscallConn()
	record := make([]byte, recordSize)
	for err == nil {
		n, readErr := 0, error(nil)
		if err = raw.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), record) }); err != nil {
			break
		}
		switch {
		case errors.Is(readErr, unix.EAGAIN):
			return
		case errors.Is(readErr, unix.EPIPE):
			l.failure = ErrLost
		case errors.Is(readErr, unix.EINTR):
		case readErr != nil:
			err = readErr
		default:
			l.take(record[:n])
		}
	}
	l.failure = fmt.Errorf("read the kernel's log: %w", err)
}

// ErrLost says that records of the log are missing.
var ErrLost = errors.New("the kernel has dropped records of its log")

// parse reads a record of /dev/kmsg.
func parse(record string) (Call, bool) {
	if !strings.Contains(record, "type=1326 ") {
		return Call{}, false
	}
	field := func(pattern string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(record); m != nil {
			return m[1]
		}
		return ""
	}
	call := Call{Program: field(` exe="([^"]*)"`)}
	var err, err2 error
	call.Number, err = strconv.Atoi(field(` syscall=(\d+)`))
	call.Signal, err2 = strconv.Atoi(field(` sig=(\d+)`))
	return call, err == nil && err2 == nil
}

// Unlisted are those calls of pods' programs that nobody expects. ours is the
// directory of the programs that are built here.
func Unlisted(calls []Call, ours string) []Call {
	return slices.DeleteFunc(calls, func(c Call) bool {
		name := filepath.Base(c.Program)
		switch {
		case strings.HasPrefix(c.Program, os.TempDir()): // a test's own, which may try anything
			return true
		case strings.HasPrefix(name, "qemu-system-"):
			return c.Signal == 0 && slices.Contains(expectedOfQEMU(), c.Number)
		case name == "virtiofsd":
			return c.Signal == 0 && slices.Contains(expectedOfFileServer(), c.Number)
		default:
			return filepath.Dir(c.Program) != ours || c.Signal == 0 && slices.Contains(expectedOfDevice(), c.Number)
		}
	})
}

// expectedOfQEMU are the calls that QEMU 7.2 and its libraries try, and do without:
// see hypervisor/qemu/syscalls.go.
func expectedOfQEMU() []int { return []int{unix.SYS_CLONE3, unix.SYS_IO_URING_SETUP} }

// expectedOfDevice are those of the processes of our own that serve a device: what Go's
// runtime and packages try as a program begins, and do without, and the file server's
// question whether it may open files by their handles.
func expectedOfDevice() []int {
	return []int{unix.SYS_OPENAT, unix.SYS_PRLIMIT64, unix.SYS_READLINKAT, unix.SYS_STATFS, unix.SYS_OPEN_BY_HANDLE_AT}
}

// expectedOfFileServer are those of virtiofsd.
func expectedOfFileServer() []int { return []int{unix.SYS_CLONE3, unix.SYS_USERFAULTFD} }
