//go:build vm

package vm

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/virtcontainers/store"
)

// TestInstalledTree runs what "make install" copied, from a directory of no
// meaning, without a flag or an environment: the guest's kernel and image are
// found beside the program.
func TestInstalledTree(t *testing.T) {
	h := harness.New(t)
	destination := t.TempDir()
	run := func(target string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "make", "--no-print-directory", target, "DESTDIR="+destination, "PREFIX=/opt/kata")
		command.Dir = harness.Repository(t)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	run("install")
	link := filepath.Join(destination, "kata-runtime") // as /usr/bin's may be one
	if err := os.Symlink(filepath.Join(destination, "opt/kata/bin/kata-runtime"), link); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), link, "run", "-b", h.Bundle(bundle.Spec("/bin/echo", "installed")), h.ID())
	command.Dir, command.Env = "/", []string{}
	result := h.Finish(command)
	wantCode(t, result, 0)
	if result.Stdout != "installed\n" || result.Stderr != "" {
		t.Errorf("output %q, %q", result.Stdout, result.Stderr)
	}
	shim := exec.CommandContext(t.Context(), filepath.Join(destination, "opt/kata/bin/containerd-shim-kata-v2"), "-v")
	if out, err := shim.Output(); err != nil || !strings.HasPrefix(string(out), "containerd-shim-kata-v2:\n") {
		t.Errorf("the shim: %v: %q", err, out)
	}
	if err := os.Remove(store.DefaultRoot); err != nil { // nobody else uses it here
		t.Error(err)
	}

	run("uninstall")
	err := filepath.WalkDir(filepath.Join(destination, "opt"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
