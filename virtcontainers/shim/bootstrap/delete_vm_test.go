//go:build vm

package bootstrap

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func deleteByProgram(t *testing.T, w *world, id string) *task.DeleteResponse {
	t.Helper()
	cmd := w.command(id, "delete")
	var warnings bytes.Buffer
	cmd.Stderr = &warnings
	began := time.Now()
	out, err := cmd.Output()
	if err != nil || warnings.Len() > 0 {
		t.Errorf("%v: %s", err, warnings.String())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	var response task.DeleteResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		t.Error(err)
	}
	return &response
}

func TestDeleteByProgram(t *testing.T) {
	for name, before := range map[string]func(w *world, pid int){
		"dead": func(w *world, pid int) {
			_ = unix.Kill(pid, unix.SIGKILL)
			w.awaitEnd(pid)
		},
		"stopped":   func(_ *world, pid int) { _ = unix.Kill(pid, unix.SIGSTOP) },
		"reachable": func(*world, int) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.bundle("pod", sandboxOf)
			address := w.start("pod", nil)
			_, pid := w.given(address)
			before(w, pid)
			for range 2 {
				if got := deleteByProgram(t, w, "pod"); got.GetExitStatus() != 137 {
					t.Errorf("%+v", got)
				}
			}
			if name == "reachable" { // it deletes the container, and may have others
				if _, still := w.given(address); still != pid {
					t.Errorf("%d serves, want %d", still, pid)
				}
				return
			}
			w.awaitEnd(pid)
			w.isGone(address)
			if left, _ := os.ReadDir(filepath.Join(w.root, "k8s.io")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A sandbox of the Sandbox API has no task of its name, and ends all the same.
func TestDeleteOfSandbox(t *testing.T) {
	w := newWorld(t)
	if err := os.Remove(filepath.Join(w.bundle("pod", sandboxOf), "config.json")); err != nil {
		t.Fatal(err)
	}
	address := w.start("pod", nil)
	w.given(address) // it has reserved its entry
	if got := deleteByProgram(t, w, "pod"); got.GetExitStatus() != 137 {
		t.Errorf("%+v", got)
	}
	w.awaitEnd(w.pid("pod"))
	w.isGone(address)
}
