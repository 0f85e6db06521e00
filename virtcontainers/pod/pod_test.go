package pod_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/sandboxtest"
)

// fixture is a pod whose guest is the test's.
type fixture struct {
	*pod.Pod

	t     *testing.T
	guest *sandboxtest.Guest
}

func newPod(t *testing.T, change ...func(*pod.Options)) *fixture {
	t.Helper()
	guest := sandboxtest.NewGuest()
	log := slog.New(slog.DiscardHandler)
	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		Machine: guest.Machine, Token: sandboxtest.Token, BootTimeout: time.Minute, Log: log,
	})
	sandbox.Boot()
	if err := sandbox.Assign(virtcontainers.Assignment{ID: "pod", Share: guest.Share}); err != nil {
		t.Fatal(err)
	}
	options := pod.Options{Sandbox: sandbox, Network: pod.NetworkNone, Log: log}
	for _, c := range change {
		c(&options)
	}
	f := &fixture{Pod: pod.New(options), t: t, guest: guest}
	t.Cleanup(func() {
		if err := f.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		f.Wait()
	})
	return f
}

// isDone tells whether the pod is to end.
func (f *fixture) isDone() bool {
	select {
	case <-f.Done():
		return true
	default:
		return false
	}
}

// keeper notes what it is told.
type keeper struct {
	claim func(context.Context) error
	lost  bool

	mu       sync.Mutex
	statuses []virtcontainers.Status
	released []bool // whether it was the last
}

func (k *keeper) Claim(ctx context.Context) error {
	if k.claim == nil {
		return nil
	}
	return k.claim(ctx)
}

func (k *keeper) Record(status virtcontainers.Status, _ *virtcontainers.Exit) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.statuses = append(k.statuses, status)
	return nil
}

func (k *keeper) Lost() bool { return k.lost }

func (k *keeper) Release(_ context.Context, last bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.released = append(k.released, last)
	return nil
}

// wasReleased fails the test unless the keeper was told once to let go.
func (k *keeper) wasReleased(t *testing.T, last bool) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.released, []bool{last}) {
		t.Errorf("released %v, want once with %v", k.released, last)
	}
}

// attachment takes no output.
type attachment struct {
	beginErr error

	mu     sync.Mutex
	begun  int
	closed []virtcontainers.Exit
}

func (a *attachment) Begin(_ context.Context, process *virtcontainers.Process, _ func(context.Context) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun++
	process.Streams.Close()
	return a.beginErr
}

func (a *attachment) Close(exit virtcontainers.Exit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = append(a.closed, exit)
}

func (*attachment) Abandon() {}

// codes are the exit codes that it was told.
func (a *attachment) codes() []uint8 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var codes []uint8
	for _, exit := range a.closed {
		codes = append(codes, exit.Code)
	}
	return codes
}

func request(a *attachment) pod.Request {
	return pod.Request{Options: virtcontainers.ContainerOptions{Spec: []byte("{}")}, Attachment: a}
}

// reserve reserves an id that is free.
func (f *fixture) reserve(id string) (*pod.Container, *keeper) {
	f.t.Helper()
	k := &keeper{}
	c, err := f.Reserve(context.Background(), id, k)
	if err != nil {
		f.t.Fatal(err)
	}
	return c, k
}

// create makes a container.
func (f *fixture) create(id string) (*pod.Container, *keeper, *attachment) {
	f.t.Helper()
	c, k := f.reserve(id)
	a := &attachment{}
	if err := c.Create(context.Background(), request(a)); err != nil {
		f.t.Fatal(err)
	}
	return c, k, a
}

// run makes a container that runs.
func (f *fixture) run(id string) (*pod.Container, *keeper, *attachment) {
	f.t.Helper()
	c, k, a := f.create(id)
	if err := c.Start(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	return c, k, a
}

// remove removes a container that can be.
func (f *fixture) remove(id string, force bool) pod.Removal {
	f.t.Helper()
	removal, err := f.Remove(context.Background(), id, force)
	if err != nil {
		f.t.Fatal(err)
	}
	return removal
}

// mustBe fails the test unless the error is of a kind.
func mustBe(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%v, want %v", err, kind)
	}
}

// A container's whole life, and what each of its states refuses.
func TestLife(t *testing.T) {
	f := newPod(t)
	ctx := context.Background()
	c, k := f.reserve("pod")
	_, err := f.Reserve(ctx, "pod", &keeper{})
	mustBe(t, err, virtcontainers.ErrExists)
	_, err = f.Container("pod")
	mustBe(t, err, virtcontainers.ErrNotFound)
	_, err = f.Remove(ctx, "pod", false)
	mustBe(t, err, virtcontainers.ErrNotFound)

	a := &attachment{}
	if err := c.Create(ctx, request(a)); err != nil {
		t.Fatal(err)
	}
	mustBe(t, c.Create(ctx, request(&attachment{})), virtcontainers.ErrState)
	if found, err := f.Container("pod"); found != c || err != nil {
		t.Fatalf("found %v, %v", found, err)
	}
	_, err = f.Remove(ctx, "pod", false)
	mustBe(t, err, virtcontainers.ErrState)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	mustBe(t, c.Start(ctx), virtcontainers.ErrState)
	if err := c.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = f.Remove(ctx, "pod", false)
	mustBe(t, err, virtcontainers.ErrState)
	if c.Status() != virtcontainers.StatusRunning {
		t.Errorf("after removals that were refused it is %s", c.Status())
	}

	f.guest.Exit(sandboxtest.Init("pod"), 3)
	<-c.Finished()
	if codes := a.codes(); !slices.Equal(codes, []uint8{3}) {
		t.Errorf("the attachment was told %v", codes)
	}
	_, err = c.Exec(ctx, pod.ExecRequest{ExecOptions: virtcontainers.ExecOptions{ID: "late"}, Attachment: &attachment{}})
	mustBe(t, err, virtcontainers.ErrNotRunning)
	if removal := f.remove("pod", false); !removal.Last || removal.Creating {
		t.Errorf("%+v", removal)
	}
	k.wasReleased(t, true)
	want := []virtcontainers.Status{
		virtcontainers.StatusCreated, virtcontainers.StatusRunning, virtcontainers.StatusPaused,
		virtcontainers.StatusRunning, virtcontainers.StatusStopped,
	}
	if !slices.Equal(k.statuses, want) {
		t.Errorf("recorded %v, want %v", k.statuses, want)
	}
	_, err = f.Remove(ctx, "pod", true)
	mustBe(t, err, virtcontainers.ErrNotFound)
	if !f.isDone() {
		t.Error("the pod goes on without a container")
	}
	_, err = f.Reserve(ctx, "other", &keeper{})
	mustBe(t, err, pod.ErrEnding)
}

// A reservation is undone by who removes the container, and its id free again.
func TestReservationIsRemoved(t *testing.T) {
	f := newPod(t)
	f.run("pod")
	c, k := f.reserve("member")
	if removal := f.remove("member", true); removal.Last || !removal.Creating {
		t.Errorf("%+v", removal)
	}
	k.wasReleased(t, false)
	if err := c.Create(context.Background(), request(&attachment{})); err == nil {
		t.Error("a removed container was created")
	}
	f.create("member")
}

func TestClaimFails(t *testing.T) {
	f := newPod(t)
	f.run("pod")
	failure := errors.New("nothing to be had")
	k := &keeper{claim: func(context.Context) error { return failure }}
	_, err := f.Reserve(context.Background(), "member", k)
	mustBe(t, err, failure)
	k.wasReleased(t, false)
	f.create("member")
}

// Whoever removes a container while it is claimed or created ends that, and
// returns when nothing is left.
func TestRemovedMeanwhile(t *testing.T) {
	t.Run("claim", func(t *testing.T) {
		f := newPod(t)
		f.run("pod")
		began := make(chan struct{})
		k := &keeper{claim: func(ctx context.Context) error {
			close(began)
			<-ctx.Done()
			return context.Cause(ctx)
		}}
		reserved := make(chan error)
		go func() {
			_, err := f.Reserve(context.Background(), "member", k)
			reserved <- err
		}()
		<-began
		if removal := f.remove("member", true); !removal.Creating {
			t.Errorf("%+v", removal)
		}
		k.wasReleased(t, false)
		if err := <-reserved; err == nil {
			t.Error("it is reserved")
		}
	})
	t.Run("creation", func(t *testing.T) {
		f := newPod(t)
		f.run("pod")
		c, k := f.reserve("member")
		called, release := f.guest.Hold("CreateContainer")
		defer release()
		created := make(chan error)
		go func() { created <- c.Create(context.Background(), request(&attachment{})) }()
		<-called
		if removal := f.remove("member", true); !removal.Creating {
			t.Errorf("%+v", removal)
		}
		k.wasReleased(t, false)
		if err := <-created; err == nil {
			t.Error("it was created")
		}
	})
}

func TestCreationFails(t *testing.T) {
	t.Run("guest", func(t *testing.T) {
		f := newPod(t)
		c, k := f.reserve("pod")
		f.guest.Refuse("CreateContainer", errors.New("no such program"))
		if err := c.Create(context.Background(), request(&attachment{})); err == nil {
			t.Error("it was created")
		}
		k.wasReleased(t, true)
		if !f.isDone() {
			t.Error("the pod goes on without a container")
		}
	})
	t.Run("attachment", func(t *testing.T) {
		f := newPod(t)
		f.run("pod")
		c, k := f.reserve("member")
		failure := errors.New("nobody takes the output")
		a := &attachment{beginErr: failure}
		mustBe(t, c.Create(context.Background(), request(a)), failure)
		k.wasReleased(t, false)
		if codes := a.codes(); !slices.Equal(codes, []uint8{137}) {
			t.Errorf("the attachment was told %v", codes)
		}
	})
}

// A running container is removed by force, or when nobody stands for it any more.
func TestRemovalKills(t *testing.T) {
	for _, lost := range []bool{false, true} {
		f := newPod(t)
		_, k, a := f.run("pod")
		k.lost = lost
		f.remove("pod", !lost)
		k.wasReleased(t, true)
		if codes := a.codes(); !slices.Equal(codes, []uint8{137}) {
			t.Errorf("the attachment was told %v", codes)
		}
	}
}

// Of removals at the same time one removes.
func TestRemovedOnce(t *testing.T) {
	f := newPod(t)
	_, k, _ := f.run("pod")
	results := make(chan error)
	for range 4 {
		go func() {
			_, err := f.Remove(context.Background(), "pod", true)
			results <- err
		}()
	}
	removed := 0
	for range 4 {
		if err := <-results; err == nil {
			removed++
		} else {
			mustBe(t, err, virtcontainers.ErrNotFound)
		}
	}
	if removed != 1 {
		t.Errorf("%d removals have removed it", removed)
	}
	k.wasReleased(t, true)
}

// The machine stops with the last container that could run, also when none was
// removed; not in a pod that is kept.
func TestIdleMachineStops(t *testing.T) {
	for _, kept := range []bool{false, true} {
		f := newPod(t, func(o *pod.Options) { o.KeepEmpty = kept })
		first, _, _ := f.run("pod")
		second, _, _ := f.create("member")
		f.guest.Exit(sandboxtest.Init("pod"), 0)
		<-first.Finished()
		if f.guest.Machine.WasStopped() {
			t.Error("the machine was stopped, though a container waits for its start")
		}
		f.guest.Exit(sandboxtest.Init("member"), 0)
		<-second.Finished()
		f.remove("pod", false)
		f.remove("member", false)
		if stopped := f.guest.Machine.WasStopped(); stopped == kept {
			t.Errorf("kept %v: the machine was stopped: %v", kept, stopped)
		}
		if f.isDone() == kept {
			t.Errorf("kept %v: done %v", kept, f.isDone())
		}
	}
}

// A pod that nobody has used ends with the last of those who might have.
func TestHolds(t *testing.T) {
	f := newPod(t)
	first, err := f.Hold()
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Hold()
	if err != nil {
		t.Fatal(err)
	}
	first()
	first()
	if f.isDone() || !f.Unused() {
		t.Error("the pod ends, though somebody holds it")
	}
	second()
	if !f.isDone() || f.Unused() {
		t.Error("the pod goes on, though nobody holds it")
	}
	_, err = f.Hold()
	mustBe(t, err, pod.ErrEnding)
}

func TestExec(t *testing.T) {
	f := newPod(t)
	ctx := context.Background()
	c, _, _ := f.run("pod")
	start := func(id string) (*pod.Exec, *attachment) {
		a := &attachment{}
		e, err := c.Exec(ctx, pod.ExecRequest{ExecOptions: virtcontainers.ExecOptions{ID: id}, Attachment: a})
		if err != nil {
			t.Fatal(err)
		}
		return e, a
	}
	first, a := start("first")
	f.guest.Exit(sandboxtest.ProcessKey{Container: "pod", Process: "first"}, 7)
	<-first.Finished()
	if codes := a.codes(); !slices.Equal(codes, []uint8{7}) {
		t.Errorf("the attachment was told %v", codes)
	}
	failure := errors.New("no")
	_, err := c.Exec(ctx, pod.ExecRequest{
		ExecOptions: virtcontainers.ExecOptions{ID: "second"}, Attachment: &attachment{},
		Prepare: func(context.Context) error { return failure },
	})
	mustBe(t, err, failure)
	failing := &attachment{beginErr: failure}
	_, err = c.Exec(ctx, pod.ExecRequest{ExecOptions: virtcontainers.ExecOptions{ID: "third"}, Attachment: failing})
	mustBe(t, err, failure)

	last, a := start("last")
	f.guest.Exit(sandboxtest.Init("pod"), 0)
	<-c.Finished()
	select {
	case <-last.Finished():
	default:
		t.Error("the container is finished, and a process of it is not")
	}
	if codes := a.codes(); !slices.Equal(codes, []uint8{137}) {
		t.Errorf("the attachment was told %v", codes)
	}
	if codes := failing.codes(); !slices.Equal(codes, []uint8{137}) {
		t.Errorf("the attachment that failed was told %v", codes)
	}
	if err := last.Kill(ctx); err != nil {
		t.Error(err)
	}
}
