package rootimage_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"kata-runtime/virtcontainers/rootimage"
)

func TestVerifyInitrd(t *testing.T) {
	path := write(t, func(manifest, _ map[string]any) {
		delete(manifest, "verity") // those of initrds have none
		delete(manifest, "file_system")
	})
	if err := rootimage.VerifyInitrd(path); err != nil {
		t.Errorf("as it was built: %v", err)
	}
	built, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte{^built[0]}, built[1:]...)
	for what, content := range map[string][]byte{"a byte changed": changed, "shorter": built[1:], "longer": append(changed, 0), "empty": nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rootimage.VerifyInitrd(path); !errors.Is(err, rootimage.ErrMismatch) {
			t.Errorf("%s: %v, want %v", what, err, rootimage.ErrMismatch)
		}
	}
	manifest := rootimage.ManifestPath(path)
	if err := os.WriteFile(manifest, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rootimage.VerifyInitrd(path); err == nil || !strings.Contains(err.Error(), manifest) {
		t.Errorf("damaged manifest: %v", err)
	}
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	if err := rootimage.VerifyInitrd(path); err != nil {
		t.Errorf("no manifest: %v", err)
	}
}
