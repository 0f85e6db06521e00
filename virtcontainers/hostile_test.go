package virtcontainers_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
)

// soon bounds what waits for a guest that is not to be waited for.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// wasStopped tells whether the machine was stopped.
func (m *fakeMachine) wasStopped() bool {
	select {
	case <-m.stopped:
		return true
	default:
		return false
	}
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
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	guest.deaf.Store(true)
	if err := sandbox.Stop(soon(t)); err != nil || !guest.machine.wasStopped() {
		t.Errorf("error %v, the machine was stopped: %v", err, guest.machine.wasStopped())
	}
	<-c.Init().Done()
	if reason := c.Init().Exit().Reason; !errors.Is(reason, virtcontainers.ErrMachineEnded) {
		t.Errorf("the container ended for %v", reason)
	}
}

func TestStopReachesAMachineWhoseBootDoesNotEnd(t *testing.T) {
	guest := newFakeGuest(t)
	guest.silent, guest.machine.stuck = true, true
	sandbox := startedSandbox(t, guest)
	<-guest.machine.started
	if err := sandbox.Stop(soon(t)); err != nil || !guest.machine.wasStopped() {
		t.Errorf("error %v, the machine was stopped: %v", err, guest.machine.wasStopped())
	}
	if err := sandbox.Ready(t.Context()); err == nil {
		t.Error("the sandbox is ready")
	}
}

// A machine whose containers count as ended must not live on.
func TestAnAgentThatHangsUpEndsItsMachine(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	guest.hangUp()
	<-guest.machine.stopped
	<-c.Init().Done()
	exit := c.Init().Exit()
	if exit.Code != 137 || !errors.Is(exit.Reason, virtcontainers.ErrMachineEnded) {
		t.Errorf("exit %d, %v", exit.Code, exit.Reason)
	}
}

func TestStopWhileAnAgentHangsUp(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	c := createContainer(t, sandbox, "c1")
	var group sync.WaitGroup
	group.Go(guest.hangUp)
	for range 2 {
		group.Go(func() {
			if err := sandbox.Stop(t.Context()); err != nil || !guest.machine.wasStopped() {
				t.Errorf("error %v, the machine was stopped: %v", err, guest.machine.wasStopped())
			}
		})
	}
	group.Wait()
	<-c.Init().Done()
}

func TestABootThatFailedLeavesNoMachine(t *testing.T) {
	guest := newFakeGuest(t)
	guest.silent, guest.bootTimeout = true, time.Millisecond
	sandbox := startedSandbox(t, guest)
	if err := sandbox.Ready(t.Context()); err == nil {
		t.Fatal("the sandbox is ready")
	}
	<-guest.machine.stopped
}
