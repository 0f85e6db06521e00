package virtcontainers

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Stage names a part of a container's start, for errors and timings.
type Stage string

// The stages, in their order.
const (
	StagePrepare         Stage = "prepare"
	StageTurn            Stage = "wait for turn" // behind other machines that boot
	StageStartVMM        Stage = "start VMM"
	StageBootKernel      Stage = "boot kernel"
	StageStartAgent      Stage = "start agent"
	StageRehearse        Stage = "rehearse" // of a machine that is prepared
	StageAssign          Stage = "set up pod"
	StageNetwork         Stage = "connect network"
	StageCreateContainer Stage = "create container"
	StageStartContainer  Stage = "start container"
)

// StageError says in which stage something failed, and what the guest's
// console said last where that helps.
type StageError struct {
	Stage Stage
	Err   error
	// Console holds the last lines of the guest's console; empty where they
	// have nothing to do with the error.
	Console string
}

// Error is the stage, the cause and, on lines of their own, the console's last
// lines.
func (e *StageError) Error() string {
	text := fmt.Sprintf("%s: %v", e.Stage, e.Err)
	if console := strings.TrimSpace(e.Console); console != "" {
		text += "\nlast lines of the guest's console:\n  " + strings.ReplaceAll(console, "\n", "\n  ")
	}
	return text
}

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// Timing says when a stage began, counted from the sandbox's making, and how
// long it took. Stages overlap.
type Timing struct {
	Stage    Stage
	Begin    time.Duration
	Duration time.Duration
}

// stopwatch collects timings. Its zero value does not work: newStopwatch.
type stopwatch struct {
	origin time.Time

	mu      sync.Mutex // guards timings
	timings []Timing
}

func newStopwatch() *stopwatch { return &stopwatch{origin: time.Now()} }

// begin starts a stage; the returned function ends it.
func (s *stopwatch) begin(stage Stage) (end func()) {
	start := time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.timings = append(s.timings, Timing{Stage: stage, Begin: start.Sub(s.origin), Duration: time.Since(start)})
	}
}

func (s *stopwatch) all() []Timing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Timing(nil), s.timings...)
}
