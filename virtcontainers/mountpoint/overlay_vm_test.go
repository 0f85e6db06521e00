//go:build vm

package mountpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
)

// TestOverlay looks into an overlay through its trees, and at what is mounted on the
// host: nothing.
func TestOverlay(t *testing.T) {
	dir := t.TempDir()
	// An overlay's layers must not be an overlay, which the test's directory may be on.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	lower, upper, work := filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := errors.Join(os.Mkdir(lower, 0o755), os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755),
		os.WriteFile(filepath.Join(lower, "below"), []byte("below"), 0o600)); err != nil {
		t.Fatal(err)
	}
	before := mountInfo(t)
	trees, err := mountpoint.Overlay([]string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work}, dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, mountInfo(t)); diff != "" {
		t.Errorf("mounted on the host: %s", diff)
	}
	if len(trees) != 2 {
		t.Fatalf("%d trees", len(trees))
	}
	write, err := unix.Openat(int(trees[0].Fd()), "above", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(write); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"below", "above"} {
		if err := unix.Faccessat(int(trees[1].Fd()), name, unix.F_OK, 0); err != nil {
			t.Errorf("%s in the other tree: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(upper, "above")); err != nil {
		t.Error(err)
	}
	for _, tree := range trees {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	}
	for want, layer := range map[string]string{
		lower + "/none":              lower + "/none",
		"the kernel takes less than": "/" + strings.Repeat("x", os.Getpagesize()),
	} {
		if _, err := mountpoint.Overlay([]string{"lowerdir=" + layer}, dir, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
