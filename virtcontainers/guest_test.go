package virtcontainers_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

func allowGuestExec(_ *virtcontainers.SandboxOptions, a *virtcontainers.Assignment) {
	a.AllowGuestExec = true
}

// TestGuestExecIsForTheAssignmentToAllow: neither is the guest told that it may, nor
// is it asked.
func TestGuestExecIsForTheAssignmentToAllow(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	_, err := sandbox.ExecGuest(t.Context(), virtcontainers.ExecOptions{ID: "p"})
	if !errors.Is(err, virtcontainers.ErrNoGuestExec) {
		t.Errorf("exec: %v, want ErrNoGuestExec", err)
	}
	if asked := sandboxtest.Requests[*protocol.ExecProcessRequest](guest, "ExecProcess"); len(asked) != 0 {
		t.Errorf("the guest was asked all the same: %v", asked)
	}
	for _, request := range sandboxtest.Requests[*protocol.CreateSandboxRequest](guest, "CreateSandbox") {
		if request.GetAllowGuestExec() {
			t.Error("the guest was told to allow it")
		}
	}
}

func TestGuestExec(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest, allowGuestExec)
	if told := sandboxtest.Requests[*protocol.CreateSandboxRequest](guest, "CreateSandbox"); len(told) != 1 || !told[0].GetAllowGuestExec() {
		t.Errorf("the guest was told %v", told)
	}
	process, err := sandbox.ExecGuest(t.Context(), virtcontainers.ExecOptions{ID: "p", IO: virtcontainers.IO{Stdout: true}})
	if err != nil {
		t.Fatal(err)
	}
	key := sandboxtest.ProcessKey{Process: "p"}
	guest.Print(key, "output")
	guest.Exit(key, 7)
	output, err := io.ReadAll(process.Streams.Stdout)
	<-process.Done()
	if err != nil || string(output) != "output" || process.Exit().Code != 7 {
		t.Errorf("output %q, %v, exit code %d", output, err, process.Exit().Code)
	}
	if sandbox.Streams() != 1 {
		t.Errorf("%d streams were opened", sandbox.Streams())
	}
}

// TestMeasure: a container's figures are those at its place, whatever the guest
// adds.
func TestMeasure(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	if _, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	one := []*protocol.Measurement{{Figure: protocol.Figure_CONTAINER_PIDS, Value: 3}}
	guest.Measured.Store(&protocol.MetricsResponse{
		Guest:      []*protocol.Measurement{{Figure: protocol.Figure_LOAD_1, Value: 0.5}},
		Containers: []*protocol.ContainerMeasurements{{Measurements: one}, {Measurements: one}},
	})
	m, err := sandbox.Measure(t.Context())
	if err != nil || len(m.Guest) != 1 || len(m.Containers) != 1 || m.Containers["c1"][0].GetValue() != 3 {
		t.Errorf("measured %v, %v", m, err)
	}
}

func TestMeasureDoesNotWait(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent = true
	booting := startedSandbox(t, guest)
	if _, err := booting.Measure(t.Context()); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("a guest that boots: %v, want ErrState", err)
	}
	guest = sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	called, release := guest.Hold("Metrics")
	defer release()
	ctx, cancel := context.WithCancelCause(t.Context())
	impatience := errors.New("impatience")
	go func() {
		<-called
		cancel(impatience)
	}()
	if _, err := sandbox.Measure(ctx); !errors.Is(err, impatience) {
		t.Errorf("a guest that does not answer: %v", err)
	}
	// Nor is the guest given up for that.
	select {
	case <-sandbox.Ended():
		t.Error("the sandbox has ended")
	case <-time.After(10 * time.Millisecond):
	}
}
