package virtcontainers_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

// brokenMachine is a machine that another Start, or another listener, is tried with.
type brokenMachine struct {
	*sandboxtest.Machine
	start func(context.Context) error
	ready net.Listener
}

func (m *brokenMachine) Start(ctx context.Context) error {
	if m.start != nil {
		return m.start(ctx)
	}
	return m.Machine.Start(ctx)
}

func (m *brokenMachine) Ready() net.Listener {
	if m.ready != nil {
		return m.ready
	}
	return m.Machine.Ready()
}

func on(m *brokenMachine) option {
	return func(o *virtcontainers.SandboxOptions, _ *virtcontainers.Assignment) { o.Machine = m }
}

// Who assigns a machine that could not be started is told why, as who waits for it is.
func TestAssignTellsWhyTheMachineDidNotStart(t *testing.T) {
	guest := sandboxtest.NewGuest()
	cause := errors.New("no memory for dancing bears")
	sandbox, assignment := newSandbox(t, guest, on(&brokenMachine{
		Machine: guest.Machine, start: func(context.Context) error { return cause },
	}))
	sandbox.Boot()
	if err := sandbox.Ready(t.Context()); !errors.Is(err, cause) {
		t.Errorf("the boot: %v", err)
	}
	err := sandbox.Assign(assignment)
	if !errors.Is(err, cause) || !errors.Is(err, virtcontainers.ErrMachineEnded) {
		t.Errorf("the assignment: %v", err)
	}
	if strings.Contains(err.Error(), "has ended") { // it has never run
		t.Errorf("the assignment: %v", err)
	}
}

// A VMM that is killed since it takes too long has not failed by itself.
func TestAStartThatTakesTooLong(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startedSandbox(t, guest, impatient, on(&brokenMachine{
		Machine: guest.Machine, start: func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("signal: killed")
		},
	}))
	err := sandbox.Ready(t.Context())
	for _, want := range []string{"start VMM", "did not answer within 1ms (dial_timeout)", "signal: killed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// lost is a listener of a device that ends with the machine, before that is known.
type lost struct {
	net.Listener
	then func()
}

func (l lost) Accept() (net.Conn, error) {
	l.then()
	return nil, net.ErrClosed
}

// The end of a machine whose guest has panicked is the error, not what ends with it.
func TestTheMachinesEndIsTheBootsError(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent = true
	sandbox := startedSandbox(t, guest, on(&brokenMachine{
		Machine: guest.Machine,
		ready: lost{guest.Machine.Ready(), func() {
			time.AfterFunc(20*time.Millisecond, func() { guest.Machine.Fail(hypervisor.ErrGuestReset) })
		}},
	}))
	if err := sandbox.Ready(t.Context()); !errors.Is(err, hypervisor.ErrGuestReset) {
		t.Errorf("error %v", err)
	}
}
