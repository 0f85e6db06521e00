package pid1

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kata-runtime/guest/protocol"
)

func TestParseModules(t *testing.T) {
	got := parseModules([]byte("/lib/a.ko\n\n  # a comment\n /lib/b.ko \n#x\n/lib/c.ko"))
	want := []string{"/lib/a.ko", "/lib/b.ko", "/lib/c.ko"}
	if !slices.Equal(got, want) {
		t.Fatalf("parseModules = %q, want %q", got, want)
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
	con.println("one")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := con.reopen(path); err != nil {
		t.Fatal(err)
	}
	con.println("two")
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "one\ntwo\n" {
		t.Fatalf("console holds %q, %v", got, err)
	}
}

func TestMarkerIsThatOfTheProtocol(t *testing.T) {
	if initMarker != protocol.InitMarker {
		t.Fatalf("PID 1 prints %q, the host waits for %q", initMarker, protocol.InitMarker)
	}
}

func TestATestIsNotBooted(t *testing.T) {
	if Booting() {
		t.Fatal("an ordinary process would prepare the guest")
	}
}

func TestCopyPrograms(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "bin")
	if err := copyPrograms(filepath.Join(from, "missing"), to); err != nil {
		t.Fatalf("an image without programs: %v", err)
	}
	if _, err := os.Lstat(to); !os.IsNotExist(err) {
		t.Errorf("a directory was made for none: %v", err)
	}
	if err := os.WriteFile(filepath.Join(from, "busybox"), []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("busybox", filepath.Join(from, "sh")); err != nil {
		t.Fatal(err)
	}
	if err := copyPrograms(from, to); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(to, "sh"))
	info, statErr := os.Stat(filepath.Join(to, "sh"))
	if err != nil || statErr != nil || string(content) != "program" || info.Mode() != 0o755 {
		t.Errorf("copied %q, %v, %v, %v", content, info.Mode(), err, statErr)
	}
}
