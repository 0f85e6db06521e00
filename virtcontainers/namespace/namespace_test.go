package namespace_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/namespace"
)

func TestOpenRefusesWhatIsNoSuchNamespace(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/proc/self/ns/uts", "/dev/null", "/proc/self/ns/nothing"} {
		if file, err := namespace.Open(specs.NetworkNamespace, path); err == nil {
			t.Errorf("%s was opened as a network namespace: %v", path, file.Name())
		}
	}
	if _, err := namespace.Open("world", "/proc/self/ns/net"); err == nil {
		t.Error("a type that does not exist was opened")
	}
	if _, err := namespace.Open(specs.NetworkNamespace, "/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that does not exist: %v", err)
	}
}

func TestOwnNamespacesAreTheHosts(t *testing.T) {
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
		specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	} {
		file, err := namespace.Open(kind, namespace.OfProcess(os.Getpid(), kind))
		if err != nil {
			t.Fatal(err)
		}
		hosts, err := namespace.IsHost(kind, file)
		if err != nil || !hosts {
			t.Errorf("this process's own %s namespace: host's %v, %v", kind, hosts, err)
		}
		if err := namespace.RefuseHost(kind, file); !errors.Is(err, namespace.ErrHost) {
			t.Errorf("%s: %v", kind, err)
		}
		file.Close()
	}
}
