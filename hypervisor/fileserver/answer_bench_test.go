package fileserver

import (
	"os"
	"path/filepath"
	"testing"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

// BenchmarkLookup is what a lookup and what ends it take, without the transport.
func BenchmarkLookup(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	files, err := passthrough.New(root, passthrough.Options{Submounts: true})
	if err != nil {
		b.Fatal(err)
	}
	defer files.Close()
	s := newSession(files, *files.MountOptions())
	in := encode(1, 2, 1, []byte("file\x00"))
	out := make([]byte, outHeaderSize+128)
	for b.Loop() {
		if n := s.answer(in, out); n != len(out) {
			b.Fatal(n)
		}
	}
}
