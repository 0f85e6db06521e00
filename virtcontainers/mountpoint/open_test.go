package mountpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
)

// TestOpenOnABusyHost resolves a path with ".." while another directory's files
// are being renamed, which the kernel takes for a reason to give up.
func TestOpenOnABusyHost(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "run/secrets"), 0o755), os.Mkdir(filepath.Join(dir, "var"), 0o755),
		os.Symlink("../run", filepath.Join(dir, "var/run")), os.WriteFile(filepath.Join(other, "a"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	stop := make(chan struct{})
	var renaming sync.WaitGroup
	defer renaming.Wait()
	defer close(stop)
	renaming.Go(func() {
		from, to := filepath.Join(other, "a"), filepath.Join(other, "b")
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.Rename(from, to); err != nil {
				t.Error(err)
				return
			}
			from, to = to, from
		}
	})
	for range 10000 {
		file, err := mountpoint.Open(root, "/var/run/secrets")
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
}
