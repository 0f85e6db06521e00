package shim_test

import (
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What stands for a container on the host is killed: the container ends, as with a
// runtime whose container that process is.
func TestHolderKilled(t *testing.T) {
	f := serve(t)
	f.holders.real = true
	f.run("c1", declared)
	f.run("c2", f.member())
	f.create("c3", f.member())
	f.exec("c2", "e1")
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c2", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	f.holders.kill("c3")
	f.wait("c3", "", 137)
	f.holders.kill("c2")
	f.wait("c2", "e1", 137)
	f.wait("c2", "", 137)
	f.remove("c2", "e1")
	f.remove("c2", "")
	f.remove("c3", "")
	f.run("c2", f.member()) // the pod is there
	f.holders.kill("c1")    // and is not any more
	f.wait("c2", "", 137)
	f.wait("c1", "", 137)
	if _, err := f.Create(f.ctx(), f.request("c4", joins("c1"))); err == nil {
		t.Error("a container is created in a pod that has ended")
	}
	f.remove("c2", "")
	f.remove("c1", "")
	f.nothingOnHost()
}

func TestHolderOfSandboxKilled(t *testing.T) {
	f := serveSandbox(t)
	f.start(cri.NamespaceMode_CONTAINER)
	f.run("c2", f.member)
	f.holders.kill("c1")
	ended, err := f.WaitSandbox(f.ctx(), &sandboxapi.WaitSandboxRequest{SandboxID: "c1"})
	if err != nil || ended.GetExitStatus() != 137 {
		t.Errorf("%v, %v", ended, err)
	}
	f.fixture.wait("c2", "", 137)
	f.remove("c2", "")
	f.shutdown()
}
