package shim_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/sandboxtest"
)

// during runs a call, and until while the guest holds its answer to it.
func (f *fixture) during(method string, call func(context.Context) error, until func()) <-chan error {
	f.t.Helper()
	called, release := f.guest.Hold(method)
	f.t.Cleanup(release)
	ended := make(chan error, 1)
	ctx := f.ctx()
	go func() { ended <- call(ctx) }()
	<-called
	f.guest.On(method, nil)
	until()
	release()
	return ended
}

// A guest that does not answer Pause keeps neither the end of the task from being
// told, nor its deletion.
func TestEndDuringPause(t *testing.T) {
	f := serve(t)
	f.holders.real = true
	f.run("c1", declared)
	f.run("c2", f.member())
	paused := f.during("PauseContainer", func(ctx context.Context) error {
		_, err := f.Pause(ctx, &taskapi.PauseRequest{ID: "c2"})
		return err
	}, func() {
		f.guest.Exit(sandboxtest.Init("c2"), 3)
		f.wait("c2", "", 3)
		f.remove("c2", "")
	})
	refused(t, <-paused, codes.FailedPrecondition, "ended")
	f.told("create c1", "start c1", "create c2", "start c2", "exit c2/c2 3", "delete c2")
}

// As with runc's shim, a signal for a process that is being started comes after the
// start: containerd ends so what it does not wait for any more.
func TestKillDuringExec(t *testing.T) {
	f := serve(t)
	f.run("c1")
	f.exec("c1", "e1")
	killed := make(chan error, 1)
	started := f.during("ExecProcess", func(ctx context.Context) error {
		_, err := f.Start(ctx, &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
		return err
	}, func() {
		ctx := f.ctx()
		go func() {
			_, err := f.Kill(ctx, &taskapi.KillRequest{ID: "c1", ExecID: "e1", Signal: 9})
			killed <- err
		}()
		short, cancel := context.WithTimeout(f.ctx(), 50*time.Millisecond)
		defer cancel()
		if _, err := f.Kill(short, &taskapi.KillRequest{ID: "c1", ExecID: "e1", Signal: 9}); !isLate(err) {
			t.Errorf("a process is killed that is not there yet: %v", err)
		}
	})
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	// The late one may have come first after all.
	if err := <-killed; err != nil && status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	f.wait("c1", "e1", 137)
	f.remove("c1", "e1")
}

// isLate tells that a call has taken too long, whoever says so.
func isLate(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// A pod whose guest does not answer can be ended while it is started.
func TestShutdownDuringStartOfSandbox(t *testing.T) {
	f := serveSandbox(t)
	if _, err := f.CreateSandbox(f.ctx(), f.sandbox(cri.NamespaceMode_POD)); err != nil {
		t.Fatal(err)
	}
	started := f.during("CreateContainer", func(ctx context.Context) error {
		_, err := f.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: "c1"})
		return err
	}, f.shutdown)
	if err := <-started; err == nil {
		t.Error("a sandbox has started that was ended")
	}
}

// The terminal of a process that is being started gets the size that is said last.
func TestResizeDuringExec(t *testing.T) {
	f := serve(t)
	f.run("c1")
	request := execRequest("c1", "e1")
	request.Terminal = true
	if _, err := f.Exec(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	resize := func(rows uint32) error {
		_, err := f.ResizePty(f.ctx(), &taskapi.ResizePtyRequest{ID: "c1", ExecID: "e1", Height: rows, Width: 80})
		return err
	}
	if err := resize(1); err != nil { // before it is started
		t.Fatal(err)
	}
	second := make(chan error, 1)
	started := f.during("ResizeTerminal", func(ctx context.Context) error {
		_, err := f.Start(ctx, &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
		return err
	}, func() {
		go func() { second <- resize(2) }()
		timer := time.NewTimer(50 * time.Millisecond)
		defer timer.Stop()
		select {
		case err := <-second:
			t.Error("the second size is taken before the first")
			second <- err
		case <-timer.C: // it waits
		}
	})
	for _, ended := range []<-chan error{started, second} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if got := f.sizes(); !slices.Equal(got, []uint32{1, 2}) {
		t.Errorf("sizes %v", got)
	}
}

// sizes are the rows of terminals of which the guest was told.
func (f *fixture) sizes() (rows []uint32) {
	for _, r := range sandboxtest.Requests[*protocol.ResizeTerminalRequest](f.guest, "ResizeTerminal") {
		rows = append(rows, r.GetRows())
	}
	return rows
}

// As with runc's shim, a process without a terminal takes every size.
func TestResizeWithoutTerminal(t *testing.T) {
	f := serve(t)
	f.run("c1")
	f.exec("c1", "e1")
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "e1"} {
		if _, err := f.ResizePty(f.ctx(), &taskapi.ResizePtyRequest{ID: "c1", ExecID: id, Height: 1, Width: 1}); err != nil {
			t.Error(err)
		}
	}
	if got := f.sizes(); len(got) > 0 {
		t.Errorf("the guest was told of sizes %v", got)
	}
}

// The shim takes another first task as soon as it has answered that the last is gone.
func TestAnotherPodAtOnce(t *testing.T) {
	f := serve(t)
	for range 20 {
		f.create("c1")
		f.remove("c1", "")
		f.guest = sandboxtest.NewGuest()
	}
}

// Statistics are asked of all pods of a node one after the other: a guest does not
// have long for its answer.
func TestStatsAreBounded(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	f.run("c2", f.member)
	bounds := make(chan time.Duration, 2)
	f.guest.On("StatsContainer", func(ctx context.Context, _ any) error {
		deadline, _ := ctx.Deadline()
		bounds <- time.Until(deadline)
		return nil
	})
	_, err := f.Stats(f.ctx(), &taskapi.StatsRequest{ID: "c2"})
	if err == nil {
		_, err = f.SandboxMetrics(f.ctx(), &sandboxapi.SandboxMetricsRequest{SandboxID: "c1"})
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if bound := <-bounds; bound > 10*time.Second {
			t.Errorf("the guest has %v", bound)
		}
	}
	f.guest.Refuse("StatsContainer", status.Error(codes.DeadlineExceeded, "late"))
	_, err = f.Stats(f.ctx(), &taskapi.StatsRequest{ID: "c2"})
	refused(t, err, codes.Unknown, "late") // what the guest says is no code of the shim's
}

// until returns the events up to the first of this text.
func (f *fixture) until(last string) []string {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		f.events.mu.Lock()
		got, came := slices.Clone(f.events.got), f.events.came
		f.events.mu.Unlock()
		if i := slices.Index(got, last); i >= 0 {
			return got[:i+1]
		}
		select {
		case <-came:
		case <-timeout:
			f.t.Fatalf("no event %q in %q", last, got)
		}
	}
}

// A sandbox whose machine has ended does not start.
func TestStartOfEndedSandbox(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	f.guest.Machine.Fail(errors.New("no more"))
	if _, err := f.WaitSandbox(f.ctx(), &sandboxapi.WaitSandboxRequest{SandboxID: "c1"}); err != nil {
		t.Fatal(err)
	}
	_, err := f.StartSandbox(f.ctx(), &sandboxapi.StartSandboxRequest{SandboxID: "c1"})
	refused(t, err, codes.Unavailable, "has ended")
}

// A guest that tells of lack of memory all the time is not passed on each time:
// containerd writes every event down.
func TestManyOOMs(t *testing.T) {
	f := serve(t)
	f.run("c1")
	begin := time.Now()
	for range 200 {
		f.guest.OutOfMemory("c1")
	}
	f.guest.Exit(sandboxtest.Init("c1"), 137)
	f.wait("c1", "", 137)
	most := int(time.Since(begin)/time.Second) + 1
	f.remove("c1", "")
	ooms := 0
	for _, event := range f.until("delete c1") {
		if event == "oom c1" {
			ooms++
		}
	}
	if ooms == 0 || ooms > most {
		t.Errorf("%d events", ooms)
	}
}
