package pid1

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseModules(t *testing.T) {
	got := parseModules([]byte("/lib/a.ko\n\n  # a comment\n /lib/b.ko \n#x\n/lib/c.ko"))
	want := []string{"/lib/a.ko", "/lib/b.ko", "/lib/c.ko"}
	if !slices.Equal(got, want) {
		t.Fatalf("parseModules = %q, want %q", got, want)
	}
}

func TestSealedSelfIsSealedAndEqual(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("the program"), 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := sealedSelf(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	content := make([]byte, 64)
	if n, _ := file.ReadAt(content, 0); string(content[:n]) != "the program" {
		t.Fatalf("content %q", content[:n])
	}
	if _, err := file.WriteAt([]byte("x"), 0); err == nil {
		t.Fatal("a sealed program could be written to")
	}
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SEAL == 0 {
		t.Fatalf("seals %#x, %v", seals, err)
	}
}

func TestEnableControllers(t *testing.T) {
	root := t.TempDir()
	for name, content := range map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": ""} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := enableControllers(root); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil || string(got) != "+cpu +memory +pids" {
		t.Fatalf("subtree_control %q, %v", got, err)
	}
	if err := enableControllers(t.TempDir()); err == nil {
		t.Fatal("a directory without cgroup.controllers passed")
	}
}

func TestConsoleKeepsLinesUntilItOpens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	con := &console{}
	con.reopen(path)
	con.println("one")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	con.reopen(path)
	con.println("two")
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "one\ntwo\n" {
		t.Fatalf("console holds %q, %v", got, err)
	}
}
