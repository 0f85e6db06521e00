package passthrough_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// TestMemory bounds what a file costs that the guest remembers.
func TestMemory(t *testing.T) {
	eachKind(t, func(t *testing.T, dir string) {
		const files, bound = 2000, 160 // bytes for each
		o := options()
		o.MaxNodeDescriptors = 500
		g := serveDir(t, dir, o)
		for i := range files {
			if err := os.Mkdir(fmt.Sprintf("%s/quite a usual name %d", dir, i), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for i := range files {
			g.lookup(fmt.Sprintf("quite a usual name %d", i))
		}
		each := (heap() - before) / files
		t.Logf("%d bytes a file", each)
		if each > bound {
			t.Errorf("%d bytes for each file that the guest remembers, want %d at most", each, bound)
		}
		runtime.KeepAlive(g)
	})
}

func BenchmarkLookup(b *testing.B) {
	g := serveDir(b, b.TempDir(), options())
	g.file("file", "x")
	b.ReportAllocs()
	for b.Loop() {
		out, s := g.tryLookup(root, "file")
		if !s.Ok() {
			b.Fatal(s)
		}
		g.fs.Forget(out.NodeId, 1)
	}
}

func BenchmarkGetAttr(b *testing.B) {
	g := serveDir(b, b.TempDir(), options())
	g.file("file", "x")
	id := g.lookup("file")
	b.ReportAllocs()
	for b.Loop() {
		if _, s := g.getattr(id); !s.Ok() {
			b.Fatal(s)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	g := serveDir(b, b.TempDir(), options())
	g.file("file", "x")
	id := g.lookup("file")
	b.ReportAllocs()
	for b.Loop() {
		g.release(id, g.open(id, 0))
	}
}
