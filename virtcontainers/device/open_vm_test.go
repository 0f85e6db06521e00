//go:build vm

package device

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newLoop(t *testing.T, flags ...string) (major, minor uint32) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", append(flags, "--find", "--show", image)...).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	node := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", node).Run(); err != nil {
			t.Errorf("losetup: %v", err)
		}
	})
	var stat unix.Stat_t
	if err := unix.Stat(node, &stat); err != nil {
		t.Fatal(err)
	}
	return unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
}

func TestOpen(t *testing.T) {
	for _, test := range []struct {
		name     string
		flags    []string
		readOnly bool
		want     bool
	}{
		{"writable", nil, false, false},
		{"asked for read-only", nil, true, true},
		{"read-only on the host", []string{"--read-only"}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			major, minor := newLoop(t, test.flags...)
			file, readOnly, err := Open(major, minor, test.readOnly)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if readOnly != test.want {
				t.Errorf("read-only: %v", readOnly)
			}
			if _, err := file.WriteAt([]byte("x"), 0); (err == nil) == readOnly {
				t.Errorf("write: %v", err)
			}
		})
	}
	// No driver has this number.
	if file, _, err := Open(4000, 1, false); !errors.Is(err, unix.ENXIO) {
		t.Errorf("a device that does not exist: %v, %v", file, err)
	}
}
