package shim_test

import (
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"

	"kata-runtime/virtcontainers/sandboxtest"
)

func TestLife(t *testing.T) {
	f := serve(t)
	f.run("c1")
	f.guest.Exit(sandboxtest.Init("c1"), 7)
	f.wait("c1", "", 7)
	f.remove("c1", "")
	f.told("create c1", "start c1", "exit c1/c1 7", "delete c1")
	f.nothingOnHost()
	if _, err := f.Shutdown(f.ctx(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
	f.ended()
}
