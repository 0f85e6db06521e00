package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideVariable marks, in the environment, a test program that runs in
// namespaces of its own.
const insideVariable = "KATA_TEST_INSIDE"

// Main runs the tests of a package, as root, in new PID, mount, network and
// cgroup namespaces, and returns the exit code for os.Exit. It is called by TestMain.
func Main(m *testing.M) int {
	if os.Getenv(insideVariable) == "" {
		return runInside()
	}
	if err := prepareInside(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the test's namespaces:", err)
		return 1
	}
	return m.Run()
}

// runInside runs this program again in new namespaces. Its end, however it
// comes, ends everything in them.
func runInside() (code int) {
	groups, err := enterCgroups()
	if groups != nil {
		defer func() {
			if err := groups.leave(); err != nil {
				fmt.Fprintln(os.Stderr, "remove the tests' control groups:", err)
				code = 1
			}
		}()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make control groups for the tests (root is needed):", err)
		return 1
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // ends with this process
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), insideVariable+"=1", cgroupVariable+"="+groups.name)
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		Pdeathsig:  unix.SIGKILL,
	}
	// "go test" asks for the stacks of a test that hangs with SIGQUIT.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGQUIT, unix.SIGINT, unix.SIGTERM)
	if err := command.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the tests in namespaces of their own (root is needed):", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = command.Process.Signal(s)
		}
	}()
	err = command.Wait()
	signal.Stop(signals)
	close(signals)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests:", err)
		return 1
	}
	return 0
}

func prepareInside() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := isolateCgroups(); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount an empty %s: %w", dir, err)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
