package virtcontainers_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

// turns is a line that has come to the sandbox when the channel is closed.
type turns struct {
	waits, come, over chan struct{}
	err               error
}

func newTurns() *turns {
	return &turns{waits: make(chan struct{}), come: make(chan struct{}), over: make(chan struct{})}
}

func (s *turns) Take(ctx context.Context, waiting func(int)) (func(), error) {
	if s.err != nil {
		return nil, s.err
	}
	waiting(7)
	close(s.waits)
	select {
	case <-s.come:
		return func() { close(s.over) }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func inLine(line *turns, bootTimeout time.Duration) option {
	return func(o *virtcontainers.SandboxOptions, _ *virtcontainers.Assignment) {
		o.Turns, o.BootTimeout = line, bootTimeout
	}
}

// TestTurn: the machine does not start before its turn, from which the time that its boot
// may take counts, and lets others boot when its agent has answered.
func TestTurn(t *testing.T) {
	line, guest := newTurns(), sandboxtest.NewGuest()
	sandbox := startedSandbox(t, guest, inLine(line, time.Second))
	<-line.waits
	ctx, cancel := context.WithTimeout(t.Context(), 1100*time.Millisecond) // more than the boot may take
	defer cancel()
	err := sandbox.Ready(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "for its turn to boot, behind 7 others") {
		t.Errorf("a caller whose time is up while the machine waits for its turn: %v", err)
	}
	close(line.come)
	if err := sandbox.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-line.over
	waited := slices.IndexFunc(sandbox.Timings(), func(t virtcontainers.Timing) bool {
		return t.Stage == virtcontainers.StageTurn && t.Duration > time.Second
	})
	if waited < 0 {
		t.Errorf("stages: %v", sandbox.Timings())
	}
}

// TestTurnOfStopped: who is stopped leaves the line.
func TestTurnOfStopped(t *testing.T) {
	line := newTurns()
	sandbox := startedSandbox(t, sandboxtest.NewGuest(), inLine(line, time.Minute))
	<-line.waits
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stage *virtcontainers.StageError
	if err := sandbox.Ready(t.Context()); !errors.As(err, &stage) || stage.Stage != virtcontainers.StageTurn {
		t.Errorf("a sandbox that was stopped while it waited: %v", err)
	}
}

// TestNoTurns: where boots cannot take turns, they begin at once.
func TestNoTurns(t *testing.T) {
	line := &turns{err: errors.New("read-only")}
	startSandbox(t, sandboxtest.NewGuest(), inLine(line, time.Minute))
}
