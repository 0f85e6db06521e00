package shim_test

import (
	"encoding/json"
	"errors"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sizing"
)

// sized lets the machine grow.
func (f *fixture) sized() {
	size := hypervisor.Size{VCPUs: 1, MemoryMiB: 1024}
	f.guest.Machine.SetSize(size)
	f.sizing = virtcontainers.SizingOptions{Policy: sizing.Policy{Default: size, Max: hypervisor.Size{VCPUs: 8, MemoryMiB: 8192}}}
}

// has fails the test unless the machine is of this size.
func (f *fixture) has(vcpus, memoryMiB int) {
	f.t.Helper()
	if got, want := f.guest.Machine.Info().Size, (hypervisor.Size{VCPUs: vcpus, MemoryMiB: memoryMiB}); got != want {
		f.t.Errorf("the machine has %+v, want %+v", got, want)
	}
}

// A container's new limits are more than the machine has, which grows.
func TestUpdateGrowsTheMachine(t *testing.T) {
	f := serve(t)
	f.sized()
	f.run("c1")
	update := func(text string) error {
		_, err := f.Update(f.ctx(), &taskapi.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{Value: []byte(text)}})
		return err
	}
	if err := update(`{"cpu":{"quota":200000,"period":100000},"memory":{"limit":2147483648}}`); err != nil {
		t.Fatal(err)
	}
	f.has(3, 3072)
	if err := update(`{"memory":{"limit":1073741824}}`); err != nil { // the machine keeps what it has
		t.Fatal(err)
	}
	f.has(3, 3072)
	refused(t, update(`{"memory":{"limit":"much"}}`), codes.InvalidArgument, "decode the resources")
	f.guest.Machine.FailResize(errors.New("out of memory"))
	refused(t, update(`{"memory":{"limit":4294967296}}`), codes.Unknown, "out of memory")
}

// resized is what containerd's CRI makes of UpdatePodSandboxResources.
func resized(t *testing.T, resources *cri.LinuxContainerResources) *sandboxapi.UpdateSandboxRequest {
	t.Helper()
	value, err := json.Marshal(struct{ Overhead, Resources *cri.LinuxContainerResources }{nil, resources})
	if err != nil {
		t.Fatal(err)
	}
	return &sandboxapi.UpdateSandboxRequest{SandboxID: "c1", Fields: []string{"extensions"}, Sandbox: &types.Sandbox{
		SandboxID: "c1", Extensions: map[string]*anypb.Any{"updated-resources": {TypeUrl: "io.containerd.cri.v1/UpdatedResources", Value: value}},
	}}
}

func TestUpdateSandbox(t *testing.T) {
	f := serveSandbox(t)
	f.sized()
	f.start(cri.NamespaceMode_CONTAINER)
	for _, request := range []*sandboxapi.UpdateSandboxRequest{
		{SandboxID: "c1"},
		{SandboxID: "c1", Fields: []string{"labels"}, Sandbox: &types.Sandbox{}},
		resized(t, nil),
		resized(t, &cri.LinuxContainerResources{CpuShares: 2}),
	} {
		if _, err := f.UpdateSandbox(f.ctx(), request); err != nil {
			t.Errorf("%v: %v", request, err)
		}
	}
	f.has(1, 1024)
	request := resized(t, &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 150000, MemoryLimitInBytes: 512 << 20})
	if _, err := f.UpdateSandbox(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	f.has(3, 1536)
	request.Fields = []string{"labels"}
	request.Sandbox.Extensions["updated-resources"].Value = []byte("{")
	if _, err := f.UpdateSandbox(f.ctx(), request); err != nil { // about something else
		t.Error(err)
	}
	request.Fields = nil
	_, err := f.UpdateSandbox(f.ctx(), request)
	refused(t, err, codes.InvalidArgument, "decode")
	request.Sandbox.Extensions["updated-resources"].TypeUrl = "example/X"
	_, err = f.UpdateSandbox(f.ctx(), request)
	refused(t, err, codes.InvalidArgument, "example/X")
	f.shutdown()
}
