package virtcontainers_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/sizing"
)

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

func sizedSandbox(t *testing.T, guest *sandboxtest.Guest, options virtcontainers.SizingOptions) *virtcontainers.Sandbox {
	t.Helper()
	size := hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}
	guest.Machine.SetSize(size)
	options.Policy = sizing.Policy{Default: size, Max: hypervisor.Size{VCPUs: 6, MemoryMiB: 8192}}
	return startedSandbox(t, guest, func(_ *virtcontainers.SandboxOptions, a *virtcontainers.Assignment) { a.Sizing = options })
}

func TestTheMachineGrowsWithItsContainers(t *testing.T) {
	guest := sandboxtest.NewGuest()
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
		requests := sandboxtest.Requests[*protocol.OnlineResourcesRequest](guest, "OnlineResources")
		last := requests[len(requests)-1]
		online := hypervisor.Size{VCPUs: int(last.GetVcpus()), MemoryMiB: int(last.GetMemoryMib())}
		if got := guest.Machine.Info().Size; got != want || online != want {
			t.Errorf("%s: the machine has %+v, the guest uses %+v, want %+v", what, got, online, want)
		}
	}
	create("none", nil)
	check("what the pod announced", hypervisor.Size{VCPUs: 3, MemoryMiB: 2048})
	one := create("one", limitedSpec(t, 1, 100))
	check("a container", hypervisor.Size{VCPUs: 3, MemoryMiB: 2148})
	create("two", limitedSpec(t, 2, 200))
	check("another", hypervisor.Size{VCPUs: 4, MemoryMiB: 2348})

	guest.Refuse("UpdateContainer", errors.New("no"))
	if err := one.Update(t.Context(), []byte(`{"memory":{"limit":1073741824}}`)); err == nil {
		t.Error("an update that the guest refuses is taken")
	}
	guest.On("UpdateContainer", nil)
	if err := one.Update(t.Context(), []byte(`{"cpu":{"quota":200000}}`)); err != nil {
		t.Fatal(err)
	}
	check("an update", hypervisor.Size{VCPUs: 5, MemoryMiB: 3272})
	create("three", limitedSpec(t, 100, 100000))
	check("more than there is", hypervisor.Size{VCPUs: 6, MemoryMiB: 8192})
}

// The limits on the host are those of what is asked for: in time for what grows, and
// also when nothing does.
func TestTheHostsLimitsFollow(t *testing.T) {
	guest := sandboxtest.NewGuest()
	type limit struct {
		Size   hypervisor.Size
		Demand sizing.Demand
	}
	var told []limit
	var refusal error
	sandbox := sizedSandbox(t, guest, virtcontainers.SizingOptions{
		Demand: sizing.Demand{MilliCPUs: 500}, Sandbox: sizing.Demand{MilliCPUs: 500},
		LimitHost: func(size hypervisor.Size, demand sizing.Demand) error {
			if guest.Machine.Info().Size.MemoryMiB > size.MemoryMiB {
				t.Errorf("the limit for %+v comes late", size)
			}
			told = append(told, limit{size, demand})
			return refusal
		},
	})
	check := func(what string, want ...limit) {
		t.Helper()
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		told = nil
	}
	one, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "one", Spec: limitedSpec(t, 2, 100)})
	if err != nil {
		t.Fatal(err)
	}
	grown := hypervisor.Size{VCPUs: 3, MemoryMiB: 2148}
	check("a container", limit{grown, sizing.Demand{MilliCPUs: 2000, MemoryBytes: 100 * mib}})
	update := func(text string) error { return one.Update(t.Context(), []byte(text)) }
	if err := update(`{"cpu":{"quota":100000}}`); err != nil {
		t.Error(err)
	}
	check("less", limit{grown, sizing.Demand{MilliCPUs: 1000, MemoryBytes: 100 * mib}})
	if err := update(`{"cpu":{"shares":2}}`); err != nil {
		t.Error(err)
	}
	check("the same")
	if err := update(`{"cpu":{"quota":-1},"memory":{"limit":-1}}`); err != nil {
		t.Error(err)
	}
	check("no limit", limit{grown, sizing.Demand{MilliCPUs: 500}})

	demand := sizing.Demand{MilliCPUs: 3500, MemoryBytes: 1024 * mib}
	refusal = errors.New("no such control group")
	if err := sandbox.SetDemand(t.Context(), demand); !errors.Is(err, refusal) || guest.Machine.Info().Size != grown {
		t.Errorf("%v, the machine has %+v", err, guest.Machine.Info().Size)
	}
	refusal, told = nil, nil
	if err := sandbox.SetDemand(t.Context(), demand); err != nil {
		t.Fatal(err)
	}
	larger := hypervisor.Size{VCPUs: 5, MemoryMiB: 3072}
	check("the pod's", limit{larger, demand})
	if got := guest.Machine.Info().Size; got != larger {
		t.Errorf("the machine has %+v, want %+v", got, larger)
	}
	if err := sandbox.SetDemand(t.Context(), sizing.Demand{}); err != nil {
		t.Fatal(err)
	}
	check("the pod's no more", limit{larger, sizing.Demand{}})

	guest.Machine.FailResize(errors.New("out of memory"))
	if err := sandbox.SetDemand(t.Context(), sizing.Demand{MemoryBytes: 4096 * mib}); err == nil {
		t.Error("a machine that cannot grow is said to have")
	}
	check("a growth that failed",
		limit{hypervisor.Size{VCPUs: 5, MemoryMiB: 6144}, sizing.Demand{MemoryBytes: 4096 * mib}},
		limit{larger, sizing.Demand{}})
}

func TestAStaticMachineKeepsItsSize(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := sizedSandbox(t, guest, virtcontainers.SizingOptions{Static: true})
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "one", Spec: limitedSpec(t, 1, 100)})
	if want := (hypervisor.Size{VCPUs: 1, MemoryMiB: 2048}); err != nil || guest.Machine.Info().Size != want {
		t.Errorf("the machine has %+v, %v", guest.Machine.Info().Size, err)
	}
}

// A limit is an upper bound, so that a machine which cannot grow is no reason to
// refuse the container. One that fails to is.
func TestTheMachineDoesNotGrow(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := sizedSandbox(t, guest, virtcontainers.SizingOptions{})
	guest.Machine.FailResize(hypervisor.ErrUnsupported)
	if _, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "one", Spec: limitedSpec(t, 1, 100)}); err != nil {
		t.Error(err)
	}
	guest.Machine.FailResize(errors.New("out of memory"))
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "two", Spec: limitedSpec(t, 1, 100)})
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || sandbox.Containers() != 1 {
		t.Errorf("%v, and %d containers", err, sandbox.Containers())
	}
}

func TestADeviceThatCannotBePluggedInLeavesNothing(t *testing.T) {
	guest := sandboxtest.NewGuest()
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
	if diff := cmp.Diff([2]int{}, [2]int{sandbox.Containers(), guest.Share.Containers()}); diff != "" {
		t.Errorf("containers and shares are left: %s", diff)
	}
}
