package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

// supervisorCommand is the hidden first argument by which the program becomes a
// pod's supervisor.
const supervisorCommand = "supervisor"

// supervisorChannelFD is the supervisor's end of the channel.
const supervisorChannelFD = 3

// forkSupervisor starts a supervisor that shares nothing with this process: a
// session and a mount namespace of its own, and no descriptors but the channel.
func forkSupervisor(id string, theirs *os.File) (process, error) {
	cmd := exec.Command("/proc/self/exe") //nolint:noctx // it outlives this command
	cmd.Args = []string{"kata-runtime", supervisorCommand, id}
	cmd.Dir = "/"
	cmd.Env = supervisorEnvironment()
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("start the supervisor: %w", err)
	}
	// Until it is reaped, which this process does not do, it has a start time.
	forked := process{pid: cmd.Process.Pid}
	var err error
	if forked.start, err = store.StartTime(forked.pid); err != nil {
		return process{}, fmt.Errorf("start the supervisor: %w", err)
	}
	if err := cmd.Process.Release(); err != nil { // it outlives this process
		return process{}, fmt.Errorf("start the supervisor: %w", err)
	}
	return forked, nil
}

// supervisorEnvironment keeps what the search for QEMU and virtiofsd needs.
// Callers may give no PATH at all.
func supervisorEnvironment() []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return []string{"PATH=" + path, "GOGC=50"}
}

// runSupervisor is the program as a supervisor. Nobody reads its standard
// streams: what matters goes over the channel and into the pod's log.
func runSupervisor() int {
	conn, err := channel.FromFile(os.NewFile(supervisorChannelFD, "channel"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "kata-runtime supervisor is started by the other commands:", err)
		return 1
	}
	if err := limits.Lift(); err != nil {
		fmt.Fprintln(os.Stderr, "kata-runtime supervisor:", err) // only those count that the caller has
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := supervisor.Run(ctx, conn); err != nil && !errors.Is(err, context.Canceled) {
		return 1
	}
	return 0
}

// socketPair makes a channel of which neither end is this process's.
func socketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel"), nil
}
