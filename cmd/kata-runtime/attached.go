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
)

// catchSignals collects what is passed on to the stand-in, which is in a session
// of its own: a change of the terminal's size is told to the command alone. Before
// it is called a signal has its default effect, so it comes before the process can
// run: what the process says may be what somebody answers with a signal.
func (n *creation) catchSignals() (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 64)
	signal.Notify(signals)
	signal.Reset(unix.SIGURG, unix.SIGPIPE)
	return signals, func() { signal.Stop(signals) }
}

// catchSizes notes that the terminal gets another size before catchSignals is called,
// which the stand-in may have been too early to read.
func catchSizes() (sizes chan os.Signal) {
	sizes = make(chan os.Signal, 1)
	signal.Notify(sizes, unix.SIGWINCH)
	return sizes
}

// forwardSizes passes that on.
func (n *creation) forwardSizes(sizes chan os.Signal) {
	signal.Stop(sizes)
	select {
	case received := <-sizes:
		n.forward(received)
	default:
	}
}

// forward passes a signal to the stand-in and tells which; 0: none.
func (n *creation) forward(received os.Signal) syscall.Signal {
	number, ok := received.(syscall.Signal)
	if !ok || number == unix.SIGCHLD || number == unix.SIGURG {
		return 0
	}
	_ = n.standIn.Process.Signal(number) // it may be gone already
	return number
}

// standInEnd is closed when the stand-in has ended, as standInErr says.
func (n *creation) standInEnd() <-chan struct{} {
	if n.standInEnded == nil {
		n.standInEnded = make(chan struct{})
		go func() {
			n.standInErr = n.standIn.Wait()
			close(n.standInEnded)
		}()
	}
	return n.standInEnded
}

// forwarding passes signals to the stand-in while call starts its process: the
// stand-in knows whether there is one already, see standin.Run. One that gives up,
// or is killed, ends the call, and its exit code is the error.
func (n *creation) forwarding(ctx context.Context, signals <-chan os.Signal, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := n.standInEnd()
	answer := make(chan error, 1)
	go func() { answer <- call(ctx) }()
	last := unix.SIGKILL
	for {
		select {
		case err := <-answer:
			return err
		case received := <-signals:
			if number := n.forward(received); number != 0 {
				last = number
			}
		case <-ended:
			if status, ok := n.standIn.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return exitError(128 + int(last))
			}
			ended = nil // its process has ended, or the answer tells what is wrong
		}
	}
}

// await passes signals to the stand-in until it ends, and returns its exit
// code.
func (n *creation) await(signals <-chan os.Signal) (int, error) {
	ended := n.standInEnd()
	for {
		select {
		case <-ended:
			var exit *exec.ExitError
			if err := n.standInErr; err != nil && !errors.As(err, &exit) {
				return 0, fmt.Errorf("wait for the container: %w", err)
			}
			return exitCode(n.standIn.ProcessState), nil
		case received := <-signals:
			n.forward(received)
		}
	}
}

func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
