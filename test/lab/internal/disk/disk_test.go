package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKey(t *testing.T) {
	first, err := key("bookworm")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := key("bookworm"); err != nil || again != first {
		t.Errorf("%s and %s, %v", first, again, err)
	}
	if other, err := key("trixie"); err != nil || other == first || !strings.HasPrefix(other, "trixie-") {
		t.Errorf("another release has the key %s, %v", other, err)
	}
}

func TestFurnish(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc/systemd/system/multi-user.target.wants"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What a package enabled is in the way of masking it.
	enabled := filepath.Join(root, "etc/systemd/system", masked()[0])
	if err := os.Symlink("/lib/systemd/system/"+masked()[0], enabled); err != nil {
		t.Fatal(err)
	}
	if err := furnish(root); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		masked()[0]:                           "/dev/null",
		"multi-user.target.wants/lab.service": "../lab.service",
	} {
		if got, err := os.Readlink(filepath.Join(root, "etc/systemd/system", path)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v; want %s", path, got, err, want)
		}
	}
	if id, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || len(id) != 33 {
		t.Errorf("machine-id: %q, %v", id, err)
	}
}
