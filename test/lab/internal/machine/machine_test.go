package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kata-runtime/test/lab/internal/wire"
)

// A machine that hangs is ended, and the error says so.
func TestAMachineThatHangs(t *testing.T) {
	dir := t.TempDir()
	program := "#!/bin/sh\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	o := Options{Work: t.TempDir(), Silence: 10 * time.Millisecond}
	err := Run(t.Context(), o, func(wire.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("error %v", err)
	}
}
