package factory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/sizing"
)

type fakeMachine struct{ *sandboxtest.Machine }

func (fakeMachine) Vsock() string { return "fake" }

func (fakeMachine) User() int { return 0 }

// errCold is what a pod gets that starts cold.
var errCold = errors.New("cold")

// occupy makes a machine of a pool that this process prepares.
func occupy(t *testing.T, machines *pool.Pool, fit pool.Fit, settings *config.Config) (slot *pool.Slot) {
	t.Helper()
	_, err := machines.Fill(t.Context(), fit, pool.Request{Config: settings}, 1, func(dir, name string, lock *os.File) (int, error) {
		fd, err := unix.FcntlInt(lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		slot, err = pool.Occupy(dir, name, os.NewFile(uintptr(fd), "lock"))
		return os.Getpid(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

// prepared is a machine in a pool that has booted, as Hold makes it.
func prepared(t *testing.T) (*Prepared, *sandboxtest.Guest, *pool.Pool) {
	t.Helper()
	settings := config.Default()
	settings.Hypervisor.EnableAnnotations = []string{".*"}
	machines := pool.Open(t.TempDir())
	slot := occupy(t, machines, pool.Fit{Kind: pool.Supervisor}, settings)
	guest := sandboxtest.NewGuest()
	guest.Machine.SetSize(hypervisor.Size{VCPUs: 1, MemoryMiB: 2048})
	p := newPrepared(slot, pool.Supervisor, settings)
	p.cold = func(context.Context, Spec) (*virtcontainers.Sandbox, string, error) { return nil, "", errCold }
	p.made = &assembled{
		machine: fakeMachine{guest.Machine}, size: hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}, share: guest.Share,
		sandbox: virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
			Machine: guest.Machine, Token: sandboxtest.Token, BootTimeout: time.Minute, Log: slog.New(p.log),
		}),
		networking: virtcontainers.NetworkOptions{Spare: []*network.Tap{{MAC: []byte{2, 0, 0, 0, 0, 1}}}},
	}
	p.made.sandbox.Boot()
	if err := p.made.sandbox.Rehearse(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Stop(context.Background()), p.made.sandbox.Stop(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return p, guest, machines
}

func podSpec(settings *config.Config) Spec {
	return Spec{ID: "pod", Hostname: "host", Config: settings, Interfaces: 1, Log: slog.New(slog.DiscardHandler)}
}

func counts(t *testing.T, p *Prepared, machines *pool.Pool) *pool.Counts {
	t.Helper()
	p.counting.Wait()
	counters, err := machines.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if counters[pool.Supervisor] == nil {
		return &pool.Counts{}
	}
	return counters[pool.Supervisor]
}

func TestAPodHasThePreparedMachine(t *testing.T) {
	p, guest, machines := prepared(t)
	if rehearsed := sandboxtest.Requests[*protocol.Empty](guest, "Rehearse"); len(rehearsed) != 1 {
		t.Errorf("the guest has rehearsed %d times before there was a pod", len(rehearsed))
	}
	before := time.Now()
	sandbox, vsock, err := p.NewSandbox(t.Context(), podSpec(p.settings))
	if err != nil || sandbox != p.made.sandbox || vsock != "fake" {
		t.Fatalf("%v, %q, %v", sandbox, vsock, err)
	}
	if err := sandbox.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	told := sandboxtest.Requests[*protocol.CreateSandboxRequest](guest, "CreateSandbox")
	if len(told) != 1 {
		t.Fatalf("the guest was told of %d pods", len(told))
	}
	// Nothing of these was known when the machine booted.
	if r := told[0]; r.GetSandboxId() != "pod" || r.GetHostname() != "host" || len(r.GetKeepNics()) != 1 ||
		r.GetClockUnixNanos() < before.UnixNano() || len(r.GetEntropy()) != 64 {
		t.Errorf("the guest was told %v", r)
	}
	if got := counts(t, p, machines); got.Hits != 1 || len(got.Misses) != 0 {
		t.Errorf("%+v", got)
	}
	if list, err := machines.List(); err != nil || len(list) != 0 {
		t.Errorf("the pool has %v, %v", list, err)
	}
	if _, _, err := p.NewSandbox(t.Context(), podSpec(p.settings)); !errors.Is(err, errCold) {
		t.Errorf("a second pod of the process: %v", err)
	}
	if err := p.Stop(t.Context()); err != nil || guest.Machine.WasStopped() {
		t.Errorf("the pod's machine was stopped, %v", err)
	}
}

func TestAPodThatDoesNotFitStartsCold(t *testing.T) {
	for want, change := range map[pool.Reason]func(*Spec){
		pool.ReasonConfiguration: func(s *Spec) {
			own, err := s.Config.ForPod(map[string]string{config.AnnotationPrefix + "hypervisor.kernel_params": "x"})
			if err != nil {
				t.Fatal(err)
			}
			s.Config = own
		},
		pool.ReasonHostNetwork: func(s *Spec) { s.HostNetwork = true },
		pool.ReasonSize: func(s *Spec) {
			own := *s.Config
			own.Runtime.StaticSandboxResources = true
			s.Config, s.SandboxDemand = &own, sizing.Demand{MemoryBytes: 1 << 30}
		},
	} {
		t.Run(string(want), func(t *testing.T) {
			p, guest, machines := prepared(t)
			spec := podSpec(p.settings)
			change(&spec)
			if _, _, err := p.NewSandbox(t.Context(), spec); !errors.Is(err, errCold) {
				t.Errorf("%v", err)
			}
			if got := counts(t, p, machines); got.Hits != 0 || !maps.Equal(got.Misses, map[pool.Reason]int{want: 1}) {
				t.Errorf("%+v, want one %q", got, want)
			}
			if !guest.Machine.WasStopped() {
				t.Error("the machine that is nobody's goes on")
			}
		})
	}
}

// A pod does not wait for the pool to count it.
func TestAPodDoesNotWaitForThePool(t *testing.T) {
	p, _, machines := prepared(t)
	lock, err := os.Open(filepath.Dir(p.slot.MountPoint())) // the pool's
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	spec := podSpec(p.settings)
	spec.HostNetwork = true
	if _, _, err := p.NewSandbox(t.Context(), spec); !errors.Is(err, errCold) {
		t.Errorf("%v", err)
	}
	if before, err := machines.Counters(); err != nil || len(before) != 0 {
		t.Errorf("it was not locked: %v, %v", before, err)
	}
	lock.Close()
	if got := counts(t, p, machines); got.Misses[pool.ReasonHostNetwork] != 1 {
		t.Errorf("%+v", got)
	}
}

// The pool remembers a machine whose control group could not be removed, until it is.
func TestAGroupThatStaysIsRemembered(t *testing.T) {
	p, _, _ := prepared(t)
	dir := t.TempDir() // a group in which this process is
	if err := os.WriteFile(filepath.Join(dir, "tasks"), fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	controller := "memory"
	if cgroups.IsCgroup2UnifiedMode() {
		controller = ""
	}
	record := &cgroup.Record{Name: "machine", Paths: map[string]string{controller: dir}}
	var err error
	if p.group, err = record.Open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.removeGroup(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	left := filepath.Join(filepath.Dir(p.slot.MountPoint()), "machines", p.slot.Name(), "machine.json")
	if _, err := os.Stat(left); err != nil {
		t.Error(err)
	}
	if err := p.slot.Remove(); err != nil {
		t.Error(err)
	}
}

// A machine waits for the start of a pod, but not of one that never starts.
func TestAwaitEnd(t *testing.T) {
	pipe := func() (theirs, ours *os.File) {
		theirs, ours, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ours.Close() })
		return theirs, ours
	}
	theirs, ours := pipe()
	ended := make(chan error, 1)
	go func() { ended <- awaitEnd(t.Context(), theirs, time.Hour) }()
	ours.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	theirs, _ = pipe()
	if err := awaitEnd(t.Context(), theirs, time.Millisecond); err != nil {
		t.Error(err)
	}
	theirs, _ = pipe()
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if err := awaitEnd(ctx, theirs, time.Hour); !errors.Is(err, stopped) {
		t.Error(err)
	}
}

func TestAPreparedMachineThatDied(t *testing.T) {
	p, guest, machines := prepared(t)
	guest.Machine.Fail(errors.New("killed"))
	<-p.Ended()
	if _, _, err := p.NewSandbox(t.Context(), podSpec(p.settings)); !errors.Is(err, errCold) {
		t.Errorf("%v", err)
	}
	if got := counts(t, p, machines); got.Hits != 0 || got.Misses[pool.ReasonDied] != 1 {
		t.Errorf("%+v", got)
	}
}

// TestAssignGrowsToThePod: the machine has the size of the configuration, the first
// container what it asks for.
func TestAssignGrowsToThePod(t *testing.T) {
	p, guest, _ := prepared(t)
	spec := podSpec(p.settings)
	spec.SandboxDemand = sizing.Demand{MilliCPUs: 1000, MemoryBytes: 512 << 20}
	sandbox, _, err := p.NewSandbox(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c", Spec: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if got := guest.Machine.Info().Size; got.VCPUs < 2 || got.MemoryMiB < 2048+512 {
		t.Errorf("it has %+v", got)
	}
}
