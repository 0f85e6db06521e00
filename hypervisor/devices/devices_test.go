package devices

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestFind: the program beside this one is taken, unless this one was replaced.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	runtime, device, self := filepath.Join(dir, "kata-runtime"), filepath.Join(dir, Program), filepath.Join(dir, "exe")
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(name+".new", nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	want := func(path string) {
		t.Helper()
		if got, err := find(self); got != path || err != nil {
			t.Errorf("found %q, %v, want %q", got, err, path)
		}
	}
	write(runtime)
	if err := os.Symlink(runtime, self); err != nil {
		t.Fatal(err)
	}
	want("")
	write(device)
	want(device)

	if err := os.Remove(device); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(device, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := find(self); err == nil {
		t.Errorf("found a directory: %q", got)
	}
}

// TestFindReplaced: a program that was replaced while it runs has no neighbours.
func TestFindReplaced(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "program")
	for _, file := range []string{name, filepath.Join(dir, Program)} {
		if err := os.WriteFile(file, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	running, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	self := fmt.Sprintf("/proc/self/fd/%d", running.Fd()) // as /proc/self/exe is one
	if got, err := find(self); got != filepath.Join(dir, Program) || err != nil {
		t.Errorf("before: %q, %v", got, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if got, err := find(self); got != "" || err != nil {
		t.Errorf("removed: %q, %v", got, err)
	}
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := find(self); got != "" || err != nil {
		t.Errorf("replaced: %q, %v", got, err)
	}
}
