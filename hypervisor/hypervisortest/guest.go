package hypervisortest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"kata-runtime/test/program"
)

// BuildGuest compiles the suite's guest into an initrd and returns its path. It
// needs the go command and no kernel modules: the kernel must have virtio over
// PCI, virtio-vsock and virtio-console built in.
func BuildGuest(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	guest := filepath.Join(dir, "guest")
	if err := program.Build(t.Context(), guest, "kata-runtime/hypervisor/hypervisortest/internal/guest"); err != nil {
		t.Fatal(err)
	}
	init, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	writer := cpio.Newc.Writer(file)
	err = cpio.WriteRecords(writer, []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(init), 0o755),
	})
	if err = errors.Join(err, cpio.WriteTrailer(writer), file.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
