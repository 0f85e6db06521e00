package network_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/network"
)

func TestNotANetworkNamespace(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proc/self/ns/uts", "/dev/null", "/", fifo} {
		if _, err := network.OpenNamespace(path); err == nil {
			t.Errorf("%s was taken for a network namespace", path)
		}
	}
	if _, err := network.OpenNamespace("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := network.Restore("/none"); err != nil {
		t.Errorf("restore a namespace that is gone: %v", err)
	}
}
