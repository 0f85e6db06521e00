package hooks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is the hidden first argument by which the runtime's program becomes a
// hook in other namespaces, see Become.
const Command = "hook"

// Descriptors of a process that is to become a hook, after its standard streams.
const (
	lifeFD = 3 + iota // at its end when the process that runs the hook has died
	failureFD
)

// becoming turns a hook's command into one by which the runtime's program
// becomes the hook. Go sets a parent-death signal in a child only if that sees
// its parent, which a child in another PID namespace does not; Become does it
// there. The hook goes with its parent so, and not with a namespace, which may
// be a whole pod's.
type becoming struct {
	life, failure         *os.File // this process's ends
	theirLife, theirFault *os.File
}

func become(cmd *exec.Cmd) (_ *becoming, err error) {
	b := &becoming{}
	if b.theirLife, b.life, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if b.failure, b.theirFault, err = os.Pipe(); err != nil {
		b.close()
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	cmd.Args = append([]string{"kata-runtime", Command, cmd.Path}, cmd.Args...)
	cmd.Path, cmd.Err = "/proc/self/exe", nil
	cmd.ExtraFiles = []*os.File{b.theirLife, b.theirFault}
	return b, nil
}

// started waits until the started process is the hook, or could not be.
func (b *becoming) started(path string) error {
	b.theirLife.Close()
	b.theirFault.Close()
	number := make([]byte, 4)
	_, err := io.ReadFull(b.failure, number)
	switch {
	case errors.Is(err, io.EOF):
		return nil // the pipe was closed by exec, or by the process's death
	case err != nil:
		return fmt.Errorf("wait for the hook's start: %w", err)
	}
	return &os.PathError{Op: "fork/exec", Path: path, Err: syscall.Errno(binary.NativeEndian.Uint32(number))}
}

func (b *becoming) close() {
	for _, file := range []*os.File{b.life, b.theirLife, b.failure, b.theirFault} {
		if file != nil {
			file.Close()
		}
	}
}

// Become makes this process, which Run has started, the hook that the arguments
// after Command name: its path and its own arguments. It returns an exit code
// when it fails.
func Become(args []string) int {
	const failed = 127
	if len(args) == 0 {
		return failed
	}
	runtime.LockOSThread() // the signal is the thread's that calls exec
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if err == nil {
		// A parent that had died before is not told of any more.
		life := []unix.PollFd{{Fd: lifeFD}}
		if n, pollErr := unix.Poll(life, 0); pollErr == nil && n > 0 {
			return failed
		}
		unix.CloseOnExec(lifeFD)
		unix.CloseOnExec(failureFD)
		err = unix.Exec(args[0], args[1:], os.Environ())
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		_, _ = unix.Write(failureFD, binary.NativeEndian.AppendUint32(nil, uint32(number)))
	}
	return failed
}
