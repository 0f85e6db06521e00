package virtcontainers_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

// setUps returns what the guest was told of pods.
func setUps(guest *sandboxtest.Guest) []*protocol.CreateSandboxRequest {
	return sandboxtest.Requests[*protocol.CreateSandboxRequest](guest, "CreateSandbox")
}

func assign(t *testing.T, sandbox *virtcontainers.Sandbox, assignment virtcontainers.Assignment) {
	t.Helper()
	if err := sandbox.Assign(assignment); err != nil {
		t.Fatal(err)
	}
}

func TestAMachineBootsForNobody(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox, assignment := newSandbox(t, guest)
	assignment.Hostname, assignment.Network.Keep = "host", [][]byte{{2, 0, 0, 0, 0, 1}}
	sandbox.Boot()
	if err := sandbox.Booted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sandbox.Guest().GetKernelRelease() != sandboxtest.KernelRelease || len(setUps(guest)) != 0 {
		t.Errorf("the guest says %v, and was told of %d pods", sandbox.Guest(), len(setUps(guest)))
	}
	if err := sandbox.Ready(soon(t)); err == nil {
		t.Error("it is ready before it belongs to somebody")
	}
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	if !errors.Is(err, virtcontainers.ErrState) || sandbox.Containers() != 0 {
		t.Errorf("a container of no pod: %v, want ErrState; %d are left", err, sandbox.Containers())
	}
	assign(t, sandbox, assignment)
	createContainer(t, sandbox, "c1")
	told := setUps(guest)
	if len(told) != 1 {
		t.Fatalf("the guest was told of %d pods", len(told))
	}
	request := told[0]
	if request.GetSandboxId() != "pod" || request.GetHostname() != "host" || len(request.GetKeepNics()) != 1 ||
		request.GetClockUnixNanos() == 0 || len(request.GetEntropy()) == 0 {
		t.Errorf("the guest was told %v", request)
	}
	if err := sandbox.Assign(assignment); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("assign twice: %v, want ErrState", err)
	}
}

// The random bytes that a guest begins anew with are its own: copies of one guest have all
// else in common.
func TestEachGuestHasItsOwnEntropy(t *testing.T) {
	var drawn [2]string
	for i := range drawn {
		guest := sandboxtest.NewGuest()
		sandbox, assignment := newSandbox(t, guest)
		sandbox.Boot()
		assign(t, sandbox, assignment)
		if err := sandbox.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		drawn[i] = string(setUps(guest)[0].GetEntropy())
	}
	if len(drawn[0]) != 64 || len(drawn[1]) != 64 || drawn[0] == drawn[1] {
		t.Errorf("%x and %x", drawn[0], drawn[1])
	}
}

// A guest that is to rehearse does so before it has a pod; one that cannot, or does not
// answer, is of no use.
func TestRehearse(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox, _ := newSandbox(t, guest)
	sandbox.Boot()
	if err := sandbox.Rehearse(t.Context()); err != nil || len(setUps(guest)) != 0 {
		t.Errorf("%v; the guest was told of %d pods", err, len(setUps(guest)))
	}
	guest.Refuse("Rehearse", status.Error(codes.Unknown, "no cgroups"))
	err := sandbox.Rehearse(t.Context())
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageRehearse || !strings.Contains(err.Error(), "no cgroups") {
		t.Errorf("a guest that cannot: %v", err)
	}
	guest.Hold("Rehearse")
	if err := sandbox.Rehearse(soon(t)); !errors.As(err, &stage) || stage.Stage != virtcontainers.StageRehearse {
		t.Errorf("a guest that does not answer: %v", err)
	}
}

func TestAnAssignmentBeforeTheBoot(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox, assignment := newSandbox(t, guest)
	assign(t, sandbox, assignment)
	if err := sandbox.Assign(assignment); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("assign twice: %v, want ErrState", err)
	}
	if guest.Machine.Info().State != hypervisor.StateNew {
		t.Error("the machine was started")
	}
	sandbox.Boot()
	if err := sandbox.Ready(t.Context()); err != nil || len(setUps(guest)) != 1 {
		t.Errorf("%v; the guest was told of %d pods", err, len(setUps(guest)))
	}
}

func TestAGuestThatRefusesItsPod(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Refuse("CreateSandbox", status.Error(codes.Unknown, "no such share"))
	sandbox := startedSandbox(t, guest)
	err := sandbox.Ready(t.Context())
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageAssign || !strings.Contains(err.Error(), "no such share") {
		t.Errorf("error %v", err)
	}
	if err := sandbox.Booted(t.Context()); err != nil {
		t.Errorf("the boot: %v", err)
	}
	<-guest.Machine.Stopped()
}

// Stop is legal in every state, and closes what was assigned.
func TestStopInEveryState(t *testing.T) {
	never := func(*testing.T, *sandboxtest.Guest, *virtcontainers.Sandbox) {}
	booting := func(_ *testing.T, guest *sandboxtest.Guest, sandbox *virtcontainers.Sandbox) {
		guest.Silent = true
		sandbox.Boot()
		<-guest.Machine.Started()
	}
	booted := func(t *testing.T, _ *sandboxtest.Guest, sandbox *virtcontainers.Sandbox) {
		sandbox.Boot()
		if err := sandbox.Booted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	settingUp := func(_ *testing.T, guest *sandboxtest.Guest, sandbox *virtcontainers.Sandbox) {
		called, _ := guest.Hold("CreateSandbox")
		sandbox.Boot()
		<-called
	}
	failed := func(t *testing.T, guest *sandboxtest.Guest, sandbox *virtcontainers.Sandbox) {
		booted(t, guest, sandbox)
		guest.Machine.Fail(&hypervisor.ExitError{VMM: "qemu", Status: "signal: killed"})
		<-sandbox.Ended()
	}
	for _, test := range []struct {
		name    string
		given   bool
		reach   func(*testing.T, *sandboxtest.Guest, *virtcontainers.Sandbox)
		destroy int // calls of DestroySandbox: there is nothing to flush before
	}{
		{"new", false, never, 0},
		{"new, assigned", true, never, 0},
		{"booting", false, booting, 0},
		{"booting, assigned", true, booting, 0},
		{"booted", false, booted, 0},
		{"being set up", true, settingUp, 0},
		{"ready", true, func(t *testing.T, _ *sandboxtest.Guest, sandbox *virtcontainers.Sandbox) {
			sandbox.Boot()
			if err := sandbox.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 1},
		{"ended", false, failed, 0},
		{"ended, assigned", true, failed, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			guest := sandboxtest.NewGuest()
			sandbox, assignment := newSandbox(t, guest)
			if test.given {
				assign(t, sandbox, assignment)
			}
			test.reach(t, guest, sandbox)
			for range 2 {
				if err := sandbox.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if !guest.Machine.WasStopped() || guest.Share.Closed() != test.given {
				t.Errorf("the machine was stopped: %v, the share closed: %v", guest.Machine.WasStopped(), guest.Share.Closed())
			}
			if n := len(sandboxtest.Requests[*protocol.DestroySandboxRequest](guest, "DestroySandbox")); n != test.destroy {
				t.Errorf("the guest was told of its end %d times, want %d", n, test.destroy)
			}
			err := sandbox.Assign(assignment)
			if want := map[bool]error{true: virtcontainers.ErrState, false: virtcontainers.ErrMachineEnded}[test.given]; !errors.Is(err, want) {
				t.Errorf("assign a sandbox that was stopped: %v, want %v", err, want)
			}
		})
	}
}
