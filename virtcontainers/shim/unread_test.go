package shim_test

import (
	"io"
	"os"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/sandboxtest"
)

// The end of a process whose output nobody has read yet is told, and the
// output is there until the process is deleted.
func TestUnreadOutput(t *testing.T) {
	f := serve(t)
	out, added := f.path("out"), f.path("added")
	for _, path := range []string{out, added} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	request := f.request("c1")
	request.Stdout = out
	if _, err := f.Create(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	exec := execRequest("c1", "e1")
	exec.Stdout = added
	if _, err := f.Exec(f.ctx(), exec); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "e1"} {
		if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: id}); err != nil {
			t.Fatal(err)
		}
		f.guest.Print(sandboxtest.ProcessKey{Container: "c1", Process: id}, "words")
	}
	f.guest.Exit(sandboxtest.ProcessKey{Container: "c1", Process: "e1"}, 1)
	f.wait("c1", "e1", 1)
	reader, err := os.Open(added)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if words, err := io.ReadAll(reader); err != nil || string(words) != "words" {
		t.Errorf("%q, %v", words, err)
	}
	f.remove("c1", "e1")
	f.guest.Exit(sandboxtest.Init("c1"), 2)
	f.wait("c1", "", 2)
	f.remove("c1", "") // nobody has read, nor will
	f.told("create c1", "exec-added c1/e1", "start c1", "exec-started c1/e1", "exit c1/e1 1", "exit c1/c1 2", "delete c1")
}
