package virtcontainers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/sizing"
)

func (g *fakeGuest) OnlineResources(_ context.Context, r *protocol.OnlineResourcesRequest) (*protocol.Empty, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.online = hypervisor.Size{VCPUs: int(r.GetVcpus()), MemoryMiB: int(r.GetMemoryMib())}
	return &protocol.Empty{}, nil
}

func (g *fakeGuest) UpdateContainer(context.Context, *protocol.UpdateContainerRequest) (*protocol.Empty, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &protocol.Empty{}, g.updateErr
}

func (m *fakeMachine) Resize(_ context.Context, size hypervisor.Size) (hypervisor.Size, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resizeErr != nil {
		return m.size, m.resizeErr
	}
	m.size = hypervisor.Size{VCPUs: max(m.size.VCPUs, size.VCPUs), MemoryMiB: max(m.size.MemoryMiB, size.MemoryMiB)}
	return m.size, nil
}

func (m *fakeMachine) Attach(context.Context, hypervisor.Device) error {
	return fmt.Errorf("attach: %w", hypervisor.ErrNoSlot)
}

func (m *fakeMachine) Detach(context.Context, string) error { return hypervisor.ErrNoDevice }

func (m *fakeMachine) Info() hypervisor.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return hypervisor.Info{Size: m.size}
}

func (m *fakeMachine) failResize(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resizeErr = err
}

const mib = 1 << 20

// limitedSpec asks for CPUs and MiB.
func limitedSpec(t *testing.T, cpus, memory int64) []byte {
	t.Helper()
	memory *= mib
	cpus *= 100000
	data, err := json.Marshal(specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &cpus},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sizedSandbox(t *testing.T, guest *fakeGuest, options virtcontainers.SizingOptions) *virtcontainers.Sandbox {
	t.Helper()
	guest.machine.size = hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}
	options.Policy = sizing.Policy{Default: guest.machine.size, Max: hypervisor.Size{VCPUs: 6, MemoryMiB: 8192}}
	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		ID: "pod", Machine: guest.machine, Share: &guest.machine.share, Token: token,
		BootTimeout: guest.bootTimeout, Sizing: options, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		if err := sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	sandbox.Start()
	return sandbox
}

func TestTheMachineGrowsWithItsContainers(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := sizedSandbox(t, guest, virtcontainers.SizingOptions{Sandbox: sizing.Demand{MilliCPUs: 1500}})
	create := func(id string, spec []byte) *virtcontainers.Container {
		t.Helper()
		c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: id, Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	check := func(what string, want hypervisor.Size) {
		t.Helper()
		if got := guest.machine.Info().Size; got != want || guest.online != want {
			t.Errorf("%s: the machine has %+v, the guest uses %+v, want %+v", what, got, guest.online, want)
		}
	}
	create("none", nil)
	check("what the pod announced", hypervisor.Size{VCPUs: 3, MemoryMiB: 2048})
	one := create("one", limitedSpec(t, 1, 100))
	check("a container", hypervisor.Size{VCPUs: 3, MemoryMiB: 2148})
	create("two", limitedSpec(t, 2, 200))
	check("another", hypervisor.Size{VCPUs: 4, MemoryMiB: 2348})

	guest.updateErr = errors.New("no")
	if err := one.Update(t.Context(), []byte(`{"memory":{"limit":1073741824}}`)); err == nil {
		t.Error("an update that the guest refuses is taken")
	}
	guest.updateErr = nil
	if err := one.Update(t.Context(), []byte(`{"cpu":{"quota":200000}}`)); err != nil {
		t.Fatal(err)
	}
	check("an update", hypervisor.Size{VCPUs: 5, MemoryMiB: 3272})
	create("three", limitedSpec(t, 100, 100000))
	check("more than there is", hypervisor.Size{VCPUs: 6, MemoryMiB: 8192})
}

func TestAStaticMachineKeepsItsSize(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := sizedSandbox(t, guest, virtcontainers.SizingOptions{Static: true})
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "one", Spec: limitedSpec(t, 1, 100)})
	if want := (hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}); err != nil || guest.machine.Info().Size != want {
		t.Errorf("the machine has %+v, %v", guest.machine.Info().Size, err)
	}
}

// A limit is an upper bound, so that a machine which cannot grow is no reason to
// refuse the container. One that fails to is.
func TestTheMachineDoesNotGrow(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := sizedSandbox(t, guest, virtcontainers.SizingOptions{})
	guest.machine.failResize(hypervisor.ErrUnsupported)
	if _, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "one", Spec: limitedSpec(t, 1, 100)}); err != nil {
		t.Error(err)
	}
	guest.machine.failResize(errors.New("out of memory"))
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "two", Spec: limitedSpec(t, 1, 100)})
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || sandbox.Containers() != 1 {
		t.Errorf("%v, and %d containers", err, sandbox.Containers())
	}
}

func TestADeviceThatCannotBePluggedInLeavesNothing(t *testing.T) {
	guest := newFakeGuest(t)
	sandbox := startSandbox(t, guest)
	for range 2 {
		_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{
			ID: "one", Devices: []device.Block{{Major: 4000, Minor: 1}},
		})
		var stage *virtcontainers.StageError
		if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageCreateContainer {
			t.Errorf("error %v", err)
		}
	}
	if diff := cmp.Diff([2]int{}, [2]int{sandbox.Containers(), guest.machine.share.count()}); diff != "" {
		t.Errorf("containers and shares are left: %s", diff)
	}
}
