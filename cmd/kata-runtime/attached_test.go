package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// standInOf is a creation whose stand-in is a shell's script that has said
// something.
func standInOf(t *testing.T, script string) *creation {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := &creation{standIn: cmd}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-n.standInEnd()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return n
}

// A process may have said what somebody answers with a signal, or with another
// size of the terminal, before the command is told that it was started.
func TestSignalBeforeTheAnswer(t *testing.T) {
	for _, number := range []unix.Signal{unix.SIGWINCH, unix.SIGTERM, unix.SIGUSR1} {
		n := standInOf(t, fmt.Sprintf("trap 'exit 5' %d; echo ready; while :; do sleep 0.01; done", number))
		signals, stop := n.catchSignals()
		err := n.forwarding(t.Context(), signals, func(ctx context.Context) error {
			if err := unix.Kill(unix.Getpid(), number); err != nil {
				return err
			}
			select {
			case <-n.standInEnd():
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil {
			t.Errorf("%v: %v", number, err)
		}
		if code, err := n.await(signals); err != nil || code != 5 {
			t.Errorf("%v: exit code %d, %v", number, code, err)
		}
		stop()
	}
}

// The terminal's size may change once more while a container is created.
func TestSizeBeforeTheSignals(t *testing.T) {
	n := standInOf(t, "trap 'exit 5' WINCH; echo ready; while :; do sleep 0.01; done")
	sizes := catchSizes()
	if err := unix.Kill(unix.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	for len(sizes) == 0 {
		runtime.Gosched()
	}
	signals, stop := n.catchSignals()
	defer stop()
	n.forwardSizes(sizes)
	if code, err := n.await(signals); err != nil || code != 5 {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// A stand-in that gives up takes the command out of its wait for the answer.
func TestStandInGivesUp(t *testing.T) {
	n := standInOf(t, "trap 'kill -9 $$' TERM; echo ready; while :; do sleep 0.01; done")
	signals, stop := n.catchSignals()
	defer stop()
	err := n.forwarding(t.Context(), signals, func(ctx context.Context) error {
		if err := unix.Kill(unix.Getpid(), unix.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	var exit exitError
	if !errors.As(err, &exit) || exit != exitError(128+unix.SIGTERM) {
		t.Errorf("%v", err)
	}
}
