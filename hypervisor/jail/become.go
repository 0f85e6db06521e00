package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	errArguments = errors.New("want one argument")
	errOrphan    = errors.New("the parent has ended")
)

// Become is the step between the parent and the confined process, which it
// becomes. It returns the exit status of a failure, which it has written to
// standard error. args follow Command.
func Become(args []string) int {
	// Capabilities and ids are a thread's, and those of the one that executes the
	// program count.
	runtime.LockOSThread()
	if len(args) != 1 {
		return fail("", errArguments)
	}
	var r request
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return fail("", err)
	}
	self := -1
	if r.Path == Self {
		var err error
		if self, err = unix.Open(Self, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fail(r.Args[0], fmt.Errorf("open its program: %w", err))
		}
	}
	if err := enter(&r); err != nil {
		return fail(r.Path, err)
	}
	// The working directory is the root's, and Go's environment the process's.
	if self >= 0 {
		return fail(r.Args[0], fmt.Errorf("execute it (all users must be able to): %w", execute(self, r.Args)))
	}
	return fail(r.Path, fmt.Errorf("execute it: %w", unix.Exec(r.Path, r.Args, os.Environ())))
}

// execute becomes the program that is open as fd, which needs no name in the root.
func execute(fd int, args []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	var empty [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	return errno
}

func fail(path string, err error) int {
	fmt.Fprintf(os.Stderr, "confine %s: %v\n", filepath.Base(path), err)
	return exitStatus
}

// enter gives up what the process is not to have. What needs privilege comes
// before its end.
func enter(r *request) error {
	// Nothing that this program opened for itself goes on.
	if err := unix.CloseRange(uint(firstInherited+r.Inherited), ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors: %w", err)
	}
	if r.Namespaces&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte("jail")); err != nil {
			return fmt.Errorf("set the host's name: %w", err)
		}
	}
	if r.Root != nil {
		if err := r.Root.enter(r.User); err != nil {
			return err
		}
	}
	if err := leaveKeyring(r.Without); err != nil {
		return err
	}
	if err := setLimits(&r.Spec); err != nil {
		return err
	}
	if err := dropPrivileges(&r.Spec); err != nil {
		return err
	}
	if err := dieWithParent(); err != nil {
		return err
	}
	return filterSystemCalls(r.SystemCalls)
}

// leaveKeyring joins an unnamed session keyring of its own, which hides the parent's
// keys. A kernel without any has none to hide.
func leaveKeyring(without []string) error {
	if slices.Contains(without, PartKeyring) {
		return nil
	}
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make a keyring: %w (the sysctls kernel.keys.root_maxkeys and root_maxbytes bound them; %s)", err, advice(PartKeyring))
	}
	return nil
}

// firstInherited is the first descriptor of os/exec's ExtraFiles in the child.
const firstInherited = 3

// setLimits bounds what the process may take of the host.
func setLimits(spec *Spec) error {
	// With 1 the kernel hands no core to the program of kernel.core_pattern
	// either, which it does whatever else the limit is.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
		return fmt.Errorf("forbid cores: %w", err)
	}
	if spec.MaxThreads > 0 {
		limit := unix.Rlimit{Cur: spec.MaxThreads, Max: spec.MaxThreads}
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, &limit); err != nil {
			return fmt.Errorf("limit threads: %w", err)
		}
	}
	return limitFiles(spec.MaxFiles)
}

// limitFiles sets the limit of open files, or that of the parent where it can be
// raised no further. It is of package syscall, which otherwise sets the limit of
// this program's start again before it executes another.
func limitFiles(limit uint64) error {
	if limit == 0 {
		return nil
	}
	err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit})
	if errors.Is(err, syscall.EPERM) {
		var now syscall.Rlimit
		if err = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err == nil {
			err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: now.Max, Max: now.Max})
		}
	}
	if err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	return nil
}

// dieWithParent sets the parent-death signal anew, which went with the user, and
// looks whether it came too late.
func dieWithParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set the parent-death signal: %w", err)
	}
	// The writing end of a pipe that nobody reads.
	poll := []unix.PollFd{{Fd: 2}}
	n, err := unix.Poll(poll, 0)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(poll, 0)
	}
	switch {
	case err != nil:
		return fmt.Errorf("look for the parent: %w", err)
	case n > 0 && poll[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0:
		return errOrphan
	}
	return nil
}
