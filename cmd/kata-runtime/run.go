package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/console"
	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "create and start a container, and unless detached wait for its end and delete it",
		ArgsUsage: "ID",
		Flags: append(creationFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "leave the container running"},
			&cli.BoolFlag{Name: "keep", Usage: "do not delete the container after its end"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "accepted and ignored"},
		),
		Action: func(c *cli.Context) error {
			detach := c.Bool("detach")
			var sizes chan os.Signal
			if !detach {
				sizes = catchSizes()
			}
			created, err := create(c, !detach)
			if err != nil {
				return err
			}
			if detach {
				return created.runDetached(c.Context)
			}
			return created.runAttached(c.Context, c.Bool("keep"), sizes)
		},
	}
}

func (n *creation) runDetached(ctx context.Context) error {
	if err := n.start(ctx); err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	err := n.commit(ctx)
	n.pool.refill(ctx)
	return err
}

// runAttached sees the container through. The command's life is the
// container's: what it has not committed goes when it is killed.
func (n *creation) runAttached(ctx context.Context, keep bool, sizes chan os.Signal) error {
	signals, stop := n.catchSignals()
	defer stop()
	n.forwardSizes(sizes)
	restore, err := n.rawTerminal()
	if err == nil {
		defer restore()
		err = n.start(ctx)
	}
	if err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	refilled := make(chan struct{})
	go func() { // the container may be short
		defer close(refilled)
		n.pool.refill(ctx)
	}()
	started := time.Now()
	code, err := n.await(signals)
	<-refilled
	ended := time.Now()
	n.reportStage("run program", started, ended)
	if err != nil {
		return errors.Join(err, n.abandon(ctx))
	}
	reason := n.machineEnd()
	if err := n.finish(ctx, keep); err != nil {
		return err
	}
	if reason != "" {
		return &machineEndError{code: code, reason: reason}
	}
	n.reportStage("remove", ended, time.Now())
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// machineEndError is the end of a container whose machine has ended under it. The exit code
// is as if it had been killed in any other way.
type machineEndError struct {
	code   int
	reason string
}

func (e *machineEndError) Error() string { return "the container was killed: " + e.reason }

// machineEnd is why the machine of an ended container has ended before it; empty: it has
// not, or the container was deleted meanwhile.
func (n *creation) machineEnd() string {
	entry, err := lookup(n.root, n.id)
	if err != nil {
		return ""
	}
	state, err := entry.Load()
	if err != nil || state.Deleted || !n.made(state) {
		return ""
	}
	return machineEnd(state)
}

// machineEnd is why the machine of a container has ended; empty: it has not, or nobody
// knows.
func machineEnd(state store.State) string {
	switch {
	case state.Reason != "":
		return state.Reason
	case state.SupervisorPID > 0 && !store.Alive(state.SupervisorPID, state.SupervisorStartTime):
		return fmt.Sprintf("the pod's supervisor, process %d, has ended, and the virtual machine with it", state.SupervisorPID)
	default:
		return ""
	}
}

// since adds to an error about a stopped container why it has stopped, if its machine is
// why. Callers take "no such file or directory" for a program that the container does not
// have.
func since(state store.State, err error) error {
	reason := machineEnd(state)
	if reason == "" || strings.Contains(strings.ToLower(reason), "no such file") {
		return err
	}
	return fmt.Errorf("%w (%s)", err, reason)
}

// finish deletes the ended container, or keeps it.
func (n *creation) finish(ctx context.Context, keep bool) error {
	defer n.client.Close()
	if keep {
		return n.keep()
	}
	_, err := n.client.Delete(ctx, n.id, true)
	removed := err == nil
	if errors.Is(err, supervisor.ErrGone) {
		n.client.Close()
		removed, err = n.removeIfLeft(ctx)
	}
	if errors.Is(err, virtcontainers.ErrNotFound) {
		return nil // another command was faster
	}
	if removed {
		n.hooks.Poststop(ctx)
	}
	return err
}

// keep commits the ended container. What a supervisor that is gone has left of
// it stays without.
func (n *creation) keep() error {
	err := n.client.Commit()
	if errors.Is(err, supervisor.ErrGone) {
		if _, lookupErr := lookup(n.root, n.id); lookupErr == nil {
			return nil
		}
	}
	return err
}

// rawTerminal makes the caller's terminal raw when the container has one of its
// own: the guest does the line discipline, and Ctrl-C is a byte on its way
// there. The returned function undoes it.
func (n *creation) rawTerminal() (restore func(), err error) {
	if !n.terminal {
		return func() {}, nil
	}
	terminal, err := console.ConsoleFromFile(os.Stdin)
	if err != nil {
		return func() {}, nil //nolint:nilerr // input is not a terminal: bytes are passed as they are
	}
	if err := setRaw(terminal); err != nil {
		return nil, err
	}
	return func() { _ = terminal.Reset() }, nil
}
