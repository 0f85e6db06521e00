package fileserver

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// served is a session with a directory that has a file.
func served(tb testing.TB) *session {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600); err != nil {
		tb.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer root.Close()
	files, err := passthrough.New(root, passthrough.Options{Submounts: true, Cache: passthrough.Private(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := files.Close(); err != nil {
			tb.Error(err)
		}
	})
	return newSession(files, *files.MountOptions())
}

// TestDirectAnswers are those that go-fuse gives.
func TestDirectAnswers(t *testing.T) {
	s := served(t)
	name := func(name string) []byte { return append([]byte(name), 0) }
	open := make([]byte, outHeaderSize+16)
	if n := s.answer(encode(14, 2, 2, make([]byte, 8)), open); n == len(open) {
		t.Fatal("the file is known before it was looked up")
	}
	for _, test := range []struct {
		what   string
		opcode uint32
		node   uint64
		body   []byte
		room   int
	}{
		{"lookup", opLookup, 1, name("file"), 128},
		{"lookup of nothing", opLookup, 1, name("none"), 128},
		{"lookup of a bad name", opLookup, 1, name("a/b"), 128},
		{"lookup in nothing", opLookup, 99, name("file"), 128},
		{"getattr", opGetAttr, 2, make([]byte, 16), 104},
		{"getattr of nothing", opGetAttr, 99, make([]byte, 16), 104},
		{"flush of nothing", opFlush, 2, make([]byte, 24), 0},
		{"release of nothing", opRelease, 2, make([]byte, 24), 0},
	} {
		in := encode(test.opcode, 7, test.node, test.body)
		want := make([]byte, outHeaderSize+test.room)
		want = want[:s.answer(in, want)]
		r := &request{in: in, opcode: test.opcode, unique: 7, size: len(in), room: outHeaderSize + test.room}
		got := make([]byte, outHeaderSize+test.room)
		r.chain = chainOf(got)
		n, done, err := s.direct(r)
		if err != nil || !done {
			t.Errorf("%s: done %t, %v", test.what, done, err)
		}
		if !bytes.Equal(got[:n], want) {
			t.Errorf("%s: %x, want %x", test.what, got[:n], want)
		}
	}
	// What is too short or without room is go-fuse's to refuse.
	for what, r := range map[string]*request{
		"a name without an end": {in: encode(opLookup, 7, 1, []byte("file")), opcode: opLookup, room: 200},
		"two names":             {in: encode(opLookup, 7, 1, []byte("a\x00b\x00")), opcode: opLookup, room: 200},
		"no room":               {in: encode(opLookup, 7, 1, name("file")), opcode: opLookup, room: 100},
		"a short request":       {in: encode(opForget, 7, 1, make([]byte, 4)), opcode: opForget},
		"a short flush":         {in: encode(opFlush, 7, 1, make([]byte, 16)), opcode: opFlush, room: 16},
	} {
		if _, done, _ := s.direct(r); done {
			t.Errorf("%s is answered", what)
		}
	}
}

// TestForgottenTogether: the guest need not tell of each file that it forgets, and each
// is forgotten.
func TestForgottenTogether(t *testing.T) {
	f := newFiles(t)
	g := newGuest(t, f, drivertest.FeatureEventIndex)
	q := g.queues[forgetQueue]
	const rounds, each = 50, 10
	kicks := 0
	for range rounds {
		for range each {
			raw := encode(opForget, 2, 5, drivertest.Put(uint64(1)))
			addr := g.mem.Alloc(uint64(len(raw)))
			copy(g.mem.At(addr, uint64(len(raw))), raw)
			q.Add(drivertest.Buffer{Addr: addr, Size: uint32(len(raw))})
			if q.Publish() {
				kicks++
				if _, err := g.lines[forgetQueue].kick.Write(binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for taken := 0; taken < each; {
			if _, _, ok := q.Take(1); ok {
				taken++
				continue
			}
			<-time.After(100 * time.Microsecond)
		}
	}
	if n := f.forgotten.Load(); n != rounds*each {
		t.Errorf("%d files are forgotten, want %d", n, rounds*each)
	}
	if kicks > rounds*each/2 {
		t.Errorf("%d notifications for %d forgotten files", kicks, rounds*each)
	}
	g.want(g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104), unix.ENOENT)
}

// BenchmarkLookup is what a lookup takes, without the transport.
func BenchmarkLookup(b *testing.B) {
	s := served(b)
	r := &request{in: encode(opLookup, 2, 1, []byte("file\x00")), opcode: opLookup, room: outHeaderSize + 128}
	r.chain = chainOf(make([]byte, r.room))
	b.ReportAllocs()
	for b.Loop() {
		if n, _, err := s.direct(r); err != nil || int(n) != r.room {
			b.Fatal(n, err)
		}
	}
}

// chainOf is a chain with room for a reply.
func chainOf(out []byte) *virtqueue.Chain { return &virtqueue.Chain{Writable: [][]byte{out}} }
