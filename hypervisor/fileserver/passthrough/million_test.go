package passthrough_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkMany has a guest know as many files as it likes: go test -bench Many, with
// FILES=1000000.
func BenchmarkMany(b *testing.B) {
	files := 20000
	if n := os.Getenv("FILES"); n != "" {
		if _, err := fmt.Sscan(n, &files); err != nil {
			b.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		b.Skip("mounts a file system: run as root")
	}
	dir := b.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=90%,nr_inodes=0"); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			b.Error(err)
		}
	}()
	const each = 1000
	for i := range files {
		if i%each == 0 {
			if err := os.Mkdir(fmt.Sprintf("%s/%d", dir, i/each), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := unix.Mknod(fmt.Sprintf("%s/%d/%d", dir, i/each, i), unix.S_IFREG|0o644, 0); err != nil {
			b.Fatal(err)
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		g := serveDir(b, dir, options())
		ids := make([]uint64, files)
		var sub uint64
		for i := range files {
			if i%each == 0 {
				sub = g.lookup(fmt.Sprint(i / each))
			}
			out, s := g.tryLookup(sub, fmt.Sprint(i))
			if !s.Ok() {
				b.Fatal(s)
			}
			ids[i] = out.NodeId
		}
		b.ReportMetric(float64(heap()-before)/float64(files)-8, "bytes/file")
		b.ReportMetric(float64(g.descriptors()), "descriptors")
		for _, id := range ids {
			if _, s := g.getattr(id); !s.Ok() {
				b.Fatal(s)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(files), "µs/file")
	}
}
