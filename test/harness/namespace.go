package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/config"
)

// insideVariable marks, in the environment, a test program that runs in
// namespaces of its own.
const insideVariable = "KATA_TEST_INSIDE"

// systemdVariable says, in the environment, that the tests are about systemd:
// they share the machine's processes and control groups, as whoever asks systemd
// for something has to. The lab sets it, whose machine is thrown away.
const systemdVariable = "KATA_TEST_SYSTEMD"

// OnSystemd tells whether the tests are about systemd: whether container
// managers and runtimes are to let it make their control groups.
func OnSystemd() bool { return os.Getenv(systemdVariable) != "" }

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
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWNET)
	var groups *cgroups
	var err error
	if !OnSystemd() {
		flags |= unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP
		groups, err = enterCgroups()
	}
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
	refusals, err := watchRefusals()
	if err != nil {
		fmt.Fprintln(os.Stderr, "watch for system calls that are refused:", err)
		return 1
	}
	defer func() {
		if err := refusals.end(); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			code = 1
		}
	}()
	// The tests wait for its end.
	ready, aside, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the tests:", err)
		return 1
	}
	defer aside.Close()
	command := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // ends with this process
	command.ExtraFiles = []*os.File{ready}
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), insideVariable+"=1", config.PathVariable+"="+refusals.configuration)
	if groups != nil {
		command.Env = append(command.Env, cgroupVariable+"="+groups.name)
	}
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: unix.SIGKILL}
	// "go test" asks for the stacks of a test that hangs with SIGQUIT.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGQUIT, unix.SIGINT, unix.SIGTERM)
	if err := command.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the tests in namespaces of their own (root is needed):", err)
		return 1
	}
	_ = ready.Close()
	go func() {
		for s := range signals {
			_ = command.Process.Signal(s)
		}
	}()
	if groups != nil {
		if err := groups.stepAside(); err != nil {
			fmt.Fprintln(os.Stderr, "leave the control groups to the tests:", err)
			_ = command.Process.Kill() // the wait tells
		}
	}
	_ = aside.Close()
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
	aside := os.NewFile(3, "the starter's end of the pipe")
	if _, err := io.Copy(io.Discard, aside); err != nil {
		return fmt.Errorf("wait for the starter: %w", err)
	}
	_ = aside.Close()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if OnSystemd() {
		// Orphans are to be this process's, as they are the first process's of a
		// PID namespace.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("become the reaper of orphans: %w", err)
		}
		if err := emptyDirectories("/run/systemd", "/run/dbus"); err != nil {
			return err
		}
	} else {
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
		if err := isolateCgroups(); err != nil {
			return err
		}
		if err := emptyDirectories(); err != nil {
			return err
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

// emptyDirectories mounts an empty /run and /dev/shm, and in them those
// directories of before that are to stay.
func emptyDirectories(stay ...string) error {
	trees := make(map[string]int, len(stay))
	for _, dir := range stay {
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("keep %s: %w", dir, err)
		}
		trees[dir] = tree
	}
	for _, dir := range []string{"/run", "/dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount an empty %s: %w", dir, err)
		}
	}
	for dir, tree := range trees {
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			err = unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		if err != nil {
			return fmt.Errorf("keep %s: %w", dir, err)
		}
		_ = unix.Close(tree)
	}
	return nil
}
