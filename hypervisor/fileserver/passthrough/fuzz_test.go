package passthrough_test

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// FuzzRequests sends a guest's messages, one after the other, as they come from memory
// that it wrote: nothing outside of what is served may change, no handler may panic, and
// the descriptors stay within their bounds.
func FuzzRequests(f *testing.F) {
	// Each request is an opcode, a choice of node and open file, and what follows.
	f.Add([]byte{1, 1, 0, 0, 1, 1, 0, 1, 14, 2, 0, 2, 15, 2, 1, 0, 16, 2, 1, 0, 18, 2, 1, 0})
	f.Add([]byte{35, 1, 0, 3, 16, 3, 1, 9, 4, 3, 1, 255, 43, 3, 1, 8, 32, 3, 1, 0, 25, 3, 1, 0, 2, 3, 0, 1})
	f.Add([]byte{9, 1, 0, 4, 27, 3, 0, 0, 44, 3, 1, 0, 28, 3, 1, 0, 29, 3, 1, 0, 45, 1, 0, 5, 12, 1, 0, 6})
	f.Add([]byte{6, 1, 0, 7, 8, 1, 0, 8, 13, 2, 0, 9, 21, 2, 0, 1, 22, 2, 0, 1, 23, 2, 0, 1, 24, 2, 0, 1})
	f.Add([]byte{51, 1, 0, 1, 52, 1, 0, 0, 42, 0, 0, 1, 46, 2, 1, 3, 47, 2, 1, 1, 17, 1, 0, 0, 31, 2, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		share, outside := base+"/share", base+"/outside"
		for _, d := range []string{share, share + "/dir", outside} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, content := range map[string]string{"/outside/file": "outside", "/share/file": "inside", "/share/dir/file": "below"} {
			if err := os.WriteFile(base+name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("../outside", share+"/link"); err != nil {
			t.Fatal(err)
		}
		o := options()
		o.MaxNodeDescriptors, o.MaxOpenFiles = 4, 8
		g := serveDir(t, share, o)
		mo := g.fs.MountOptions()
		mo.Logger = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		mo.PanicHandler = func(cause any) fuse.Status {
			t.Errorf("a handler panics: %v", cause)
			return fuse.EIO
		}
		server := fuse.NewProtocolServer(g.fs, mo)
		out := [][]byte{make([]byte, 100), make([]byte, 8192)}
		server.HandleRequest([][]byte{initMessage()}, out)
		m := messages{server: server, out: out, nodes: []uint64{0, root}, files: []uint64{0}}
		for len(data) >= 4 {
			m.send([4]byte(data), data[4:])
			data = data[4:]
		}
		if n := g.descriptors(); n > 4+8+4 {
			t.Errorf("%d descriptors", n)
		}
		content, err := os.ReadFile(outside + "/file")
		if err != nil || string(content) != "outside" {
			t.Errorf("the file outside: %q %v", content, err)
		}
		list, err := os.ReadDir(outside)
		if err != nil || len(list) != 1 {
			t.Errorf("the directory outside: %v %v", list, err)
		}
	})
}

func initMessage() []byte {
	var b bytes.Buffer
	const opInit = 26
	write := func(v any) { _ = binary.Write(&b, binary.NativeEndian, v) }
	write([]uint32{104, opInit})
	write([]uint64{1, 0})
	write([]uint32{0, 0, 0, 0})
	write([]uint32{7, 40, 1 << 17, ^uint32(0), ^uint32(0)})
	write(make([]uint32, 11))
	return b.Bytes()
}

// messages remembers what the server has answered, to ask about it.
type messages struct {
	server       *fuse.ProtocolServer
	out          [][]byte
	nodes, files []uint64
}

func (m *messages) send(choice [4]byte, more []byte) {
	const (
		opLookup, opSymlink, opMknod, opMkdir, opLink = 1, 6, 8, 9, 13
		opOpen, opOpenDir, opSetLkw, opCreate         = 14, 27, 33, 35
		opForget, opBatchForget, opTmpfile            = 2, 42, 51
	)
	names := []string{"file", "dir", "link", "new", "x", "..", ".", "", "a/b", "user.x", "trusted.x", "system.posix_acl_access", "\xff"}
	op := uint32(choice[0]) % 64
	if op == opSetLkw {
		op-- // which does not wait
	}
	node := m.nodes[int(choice[1])%len(m.nodes)]
	fh := m.files[int(choice[2])%len(m.files)]
	var b bytes.Buffer
	write := func(v any) { _ = binary.Write(&b, binary.NativeEndian, v) }
	write([]uint32{0, op})
	write([]uint64{uint64(b.Len()), node})
	write([]uint32{uint32(os.Geteuid()), uint32(os.Getegid()), 1, 0})
	// Words of a message are small numbers, or not numbers of a file at all, so that no
	// disk is filled.
	word := func(i int) uint64 {
		if i >= len(more) {
			return uint64(choice[3])
		}
		if more[i] >= 250 {
			return ^uint64(0) - uint64(more[i]-250)
		}
		return uint64(more[i]) << (more[i] % 12)
	}
	write(fh)
	for i := range int(choice[3]) % 12 {
		write(word(i))
	}
	name := names[int(choice[3])%len(names)]
	b.WriteString(name + "\x00" + names[(int(choice[3])+3)%len(names)] + "\x00")
	b.Write(more[:min(len(more), 32)])
	in := b.Bytes()
	binary.NativeEndian.PutUint32(in, uint32(len(in)))
	n, _ := m.server.HandleRequest([][]byte{in}, m.out)
	if n < 16+8 || binary.NativeEndian.Uint32(m.out[0][4:]) != 0 {
		return
	}
	answer := binary.NativeEndian.Uint64(m.out[0][16:])
	switch op {
	case opLookup, opSymlink, opMknod, opMkdir, opLink:
		m.nodes = append(m.nodes, answer)
	case opOpen, opOpenDir:
		m.files = append(m.files, answer)
	case opCreate, opTmpfile:
		m.nodes = append(m.nodes, answer)
		if n >= 16+128+8 {
			whole := bytes.Join(m.out, nil)
			m.files = append(m.files, binary.NativeEndian.Uint64(whole[16+128:]))
		}
	}
}
