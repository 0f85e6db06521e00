package harness

import (
	"os"

	"github.com/u-root/u-root/pkg/cpio"

	"kata-runtime/test/bundle"
)

// Initrd makes a guest image whose first process is the given shell script, to
// stand for guests that misbehave, and returns its path.
func (h *Host) Initrd(name, script string) string {
	h.T.Helper()
	busybox, err := os.ReadFile(bundle.Busybox)
	if err != nil {
		h.T.Fatalf("read busybox (package busybox-static): %v", err)
	}
	return h.Image(
		name,
		cpio.StaticFile("init", "#!/busybox sh\n"+script, 0o755),
		cpio.StaticRecord(busybox, cpio.Info{Name: "busybox", Mode: 0o100755, FileSize: uint64(len(busybox))}),
	)
}

// Image makes a guest image of the records, one of which is init, and a
// console, and returns its path.
func (h *Host) Image(name string, records ...cpio.Record) string {
	h.T.Helper()
	path := h.File(name)
	file, err := os.Create(path)
	if err != nil {
		h.T.Fatal(err)
	}
	writer := cpio.Newc.Writer(file)
	device := []cpio.Record{cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1)}
	for _, record := range append(device, records...) {
		if err := writer.WriteRecord(record); err != nil {
			h.T.Fatalf("write initrd: %v", err)
		}
	}
	if err := cpio.WriteTrailer(writer); err != nil {
		h.T.Fatalf("write initrd: %v", err)
	}
	if err := file.Close(); err != nil {
		h.T.Fatal(err)
	}
	return path
}
