package virtcontainers_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

// soon bounds what waits for a guest that is not to be waited for.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func createContainer(t *testing.T, sandbox *virtcontainers.Sandbox, id string) *virtcontainers.Container {
	t.Helper()
	c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStopReachesTheMachineOfAGuestThatTakesNothing(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	guest.Deaf.Store(true)
	if err := sandbox.Stop(soon(t)); err != nil || !guest.Machine.WasStopped() {
		t.Errorf("error %v, the machine was stopped: %v", err, guest.Machine.WasStopped())
	}
	<-c.Init().Done()
	if reason := c.Init().Exit().Reason; !errors.Is(reason, virtcontainers.ErrMachineEnded) {
		t.Errorf("the container ended for %v", reason)
	}
}

func TestStopReachesAMachineWhoseBootDoesNotEnd(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent, guest.Machine.Stuck = true, true
	sandbox := startedSandbox(t, guest)
	<-guest.Machine.Started()
	if err := sandbox.Stop(soon(t)); err != nil || !guest.Machine.WasStopped() {
		t.Errorf("error %v, the machine was stopped: %v", err, guest.Machine.WasStopped())
	}
	if err := sandbox.Ready(t.Context()); err == nil {
		t.Error("the sandbox is ready")
	}
}

// A machine whose containers count as ended must not live on.
func TestAnAgentThatHangsUpEndsItsMachine(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	guest.HangUp()
	<-guest.Machine.Stopped()
	<-c.Init().Done()
	exit := c.Init().Exit()
	if exit.Code != 137 || !errors.Is(exit.Reason, virtcontainers.ErrMachineEnded) {
		t.Errorf("exit %d, %v", exit.Code, exit.Reason)
	}
}

// Likewise where no process is that anybody waits for.
func TestAnAgentThatHangsUpEndsAnEmptyMachine(t *testing.T) {
	t.Parallel() // it takes a while
	guest := sandboxtest.NewGuest()
	startSandbox(t, guest)
	guest.HangUp()
	<-guest.Machine.Stopped()
}

// The agent's connection ends a moment before the machine's end is known: whoever
// signals a container in between is told of that, and not of the connection.
// Also one that has nothing to wait for but lack of memory, and answers that with what is no
// answer.
func TestAnAgentThatTalksNonsenseEndsAnEmptyMachine(t *testing.T) {
	guest := sandboxtest.NewGuest()
	startSandbox(t, guest)
	guest.OutOfMemory(strings.Repeat("x", 8<<10))
	select {
	case <-guest.Machine.Stopped():
	case <-soon(t).Done():
		t.Fatal("the machine runs on without an agent")
	}
}

func TestSignalAsTheMachineEnds(t *testing.T) {
	for range 20 {
		guest := sandboxtest.NewGuest()
		sandbox := startSandbox(t, guest)
		c := createContainer(t, sandbox, "c1")
		guest.On("SignalProcess", func(context.Context, any) error {
			guest.HangUp()
			return nil
		})
		if err := c.Signal(t.Context(), syscall.SIGTERM, false); !errors.Is(err, virtcontainers.ErrNotRunning) {
			t.Fatalf("error %v, want ErrNotRunning", err)
		}
		<-c.Init().Done()
	}
}

// A hook without a timeout may take for ever, but not beyond the container's end.
func TestStartOfAContainerThatHasEnded(t *testing.T) {
	t.Parallel() // it takes a while
	guest := sandboxtest.NewGuest()
	starting, _ := guest.Hold("StartContainer")
	sandbox := startSandbox(t, guest)
	c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{
		ID: "c1", Spec: []byte(`{"hooks":{"startContainer":[{"path":"/bin/hook"}]}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- c.Start(t.Context()) }()
	<-starting
	guest.Exit(sandboxtest.Init("c1"), 3)
	<-c.Init().Done()
	if err := <-started; !errors.Is(err, virtcontainers.ErrNotRunning) {
		t.Errorf("error %v, want ErrNotRunning", err)
	}
}

// A process that the guest makes for somebody who has gone meanwhile is not lost
// from sight: nobody else could end it.
func TestExecOfACallerThatGoes(t *testing.T) {
	guest := sandboxtest.NewGuest()
	execing, release := guest.Hold("ExecProcess")
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		process *virtcontainers.Process
		err     error
	}
	done := make(chan result, 1)
	go func() {
		process, err := c.Exec(ctx, virtcontainers.ExecOptions{ID: "e1", Process: []byte(`{}`)})
		done <- result{process, err}
	}()
	<-execing
	cancel()
	release()
	if got := <-done; got.err != nil || got.process == nil {
		t.Errorf("the process that the guest has made: %v, %v", got.process, got.err)
	}
}

func TestStopWhileAnAgentHangsUp(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	var group sync.WaitGroup
	group.Go(guest.HangUp)
	for range 2 {
		group.Go(func() {
			if err := sandbox.Stop(t.Context()); err != nil || !guest.Machine.WasStopped() {
				t.Errorf("error %v, the machine was stopped: %v", err, guest.Machine.WasStopped())
			}
		})
	}
	group.Wait()
	<-c.Init().Done()
}

func TestABootThatFailedLeavesNoMachine(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent = true
	sandbox := startedSandbox(t, guest, impatient)
	if err := sandbox.Ready(t.Context()); err == nil {
		t.Fatal("the sandbox is ready")
	}
	<-guest.Machine.Stopped()
}

func TestAGuestThatDoesNotLetGoOfAContainer(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Refuse("RemoveContainer", status.Error(codes.Unknown, "device or resource busy"+strings.Repeat("!", 1<<20)))
	sandbox := startSandbox(t, guest)
	c, other := createContainer(t, sandbox, "c1"), createContainer(t, sandbox, "other")
	if err := c.DeleteForSure(t.Context()); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("delete a container that runs: %v, want ErrState", err)
	}
	guest.Exit(sandboxtest.Init("c1"), 0)
	<-c.Init().Done()

	// It may have a reason.
	err := c.Delete(t.Context())
	if err == nil || !strings.Contains(err.Error(), "device or resource busy") || len(err.Error()) > 10<<10 {
		t.Errorf("delete: %.100v", err)
	}
	if _, err := sandbox.Container("c1"); err != nil || guest.Machine.WasStopped() {
		t.Errorf("the container %v, the machine was stopped: %v", err, guest.Machine.WasStopped())
	}
	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := c.DeleteForSure(given); err == nil || guest.Machine.WasStopped() {
		t.Errorf("for sure, without patience: %v, the machine was stopped: %v", err, guest.Machine.WasStopped())
	}

	if err := c.DeleteForSure(t.Context()); err != nil || !guest.Machine.WasStopped() {
		t.Errorf("for sure: %v, the machine was stopped: %v", err, guest.Machine.WasStopped())
	}
	if _, err := sandbox.Container("c1"); !errors.Is(err, virtcontainers.ErrNotFound) || guest.Share.Containers() != 1 {
		t.Errorf("the container is left: %v, %d shares", err, guest.Share.Containers())
	}
	<-other.Init().Done()
	if reason := other.Init().Exit().Reason; reason == nil || !strings.Contains(reason.Error(), "does not let go of the stopped container c1") {
		t.Errorf("the other container ended for %v", reason)
	}
}

func TestAPauseThatHangsKeepsNobody(t *testing.T) {
	guest := sandboxtest.NewGuest()
	pausing, release := guest.Hold("PauseContainer")
	c := createContainer(t, startSandbox(t, guest), "c1")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	paused := make(chan error)
	go func() { paused <- c.Pause(t.Context()) }()
	<-pausing
	if got := c.Status(); got != virtcontainers.StatusRunning {
		t.Errorf("status %s while the guest pauses it", got)
	}
	// Its end comes first, and counts.
	guest.Exit(sandboxtest.Init("c1"), 0)
	<-c.Init().Done()
	release()
	if err := <-paused; err != nil {
		t.Error(err)
	}
	if got := c.Status(); got != virtcontainers.StatusStopped {
		t.Errorf("status %s after the end", got)
	}
}

func TestTheAgentsWordsDoNotFillTheLog(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Refuse("DestroySandbox", status.Error(codes.Unknown, strings.Repeat("never ", 1<<19)))
	var log bytes.Buffer
	sandbox := startedSandbox(t, guest, func(o *virtcontainers.SandboxOptions, _ *virtcontainers.Assignment) {
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	if err := errors.Join(sandbox.Ready(t.Context()), sandbox.Stop(t.Context())); err != nil {
		t.Fatal(err)
	}
	if log.Len() > 10<<10 || !strings.Contains(log.String(), "never nev") {
		t.Errorf("%d bytes of log: %.200s", log.Len(), log.String())
	}
}
