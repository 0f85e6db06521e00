package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protowire"

	"kata-runtime/guest/protocol"
)

// oneByte is a connection that delivers byte by byte.
type oneByte struct {
	net.Conn
	reader *bytes.Reader
}

func (o oneByte) Read(p []byte) (int, error) { return iotest.OneByteReader(o.reader).Read(p) }

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 'h', 'i', 0, 0, 0, 0, 0, 0, 0, 3, 3, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0})
	f.Add(frame([]byte{1<<3 | 2, 4, 1 << 3, 2, 3<<3 | 2, 0, 2<<3 | 2, 1, 'x', 5<<3 | 1, 1, 2, 3, 4, 5, 6, 7, 8}))
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := (&checkedConn{}).check(data)
		c := &checkedConn{Conn: oneByte{reader: bytes.NewReader(data)}}
		one := make([]byte, 16)
		var err error
		for err == nil {
			_, err = c.Read(one)
		}
		// How the bytes arrive makes no difference.
		if errors.Is(whole, ErrMalformed) != errors.Is(err, ErrMalformed) {
			t.Errorf("at once: %v, byte by byte: %v", whole, err)
		}
	})
}

// frame is a message of ttrpc's with a Response.
func frame(payload []byte) []byte {
	header := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	return append(append(header, 0, 0, 0, 1, frameResponse, 0), payload...)
}

// A Response may have an answer of any length, but little besides, which ttrpc decodes
// before anybody is asked: two bytes for each of an error's details become a hundred.
func TestDetailsAreBoundedBeforeTheyAreDecoded(t *testing.T) {
	details := func(n int) []byte { return bytes.Repeat([]byte{3<<3 | 2, 0}, n) }
	for name, c := range map[string]struct {
		payload []byte
		good    bool
	}{
		"an answer":            {protowire.AppendBytes([]byte{2<<3 | 2}, make([]byte, 3<<20)), true},
		"an error":             {protowire.AppendBytes([]byte{1<<3 | 2}, append([]byte{1 << 3, 2, 2<<3 | 2, 200, 1}, make([]byte, 200)...)), true},
		"an error and fields":  {append(protowire.AppendBytes([]byte{1<<3 | 2}, details(9)), 5<<3|1, 1, 2, 3, 4, 5, 6, 7, 8, 6<<3|5, 1, 2, 3, 4), true},
		"a long error":         {protowire.AppendBytes([]byte{1<<3 | 2}, protowire.AppendBytes([]byte{2<<3 | 2}, make([]byte, 3<<20))), true},
		"words, many details":  {protowire.AppendBytes([]byte{1<<3 | 2}, append(protowire.AppendBytes([]byte{2<<3 | 2}, make([]byte, 3<<20)), details(1<<18)...)), false},
		"words that never end": {append(protowire.AppendBytes([]byte{1<<3 | 2}, append([]byte{2<<3 | 2}, 200)), details(1<<18)...), false},
		"many details":         {protowire.AppendBytes([]byte{1<<3 | 2}, details(1<<20)), false},
		"many errors":          {bytes.Repeat(protowire.AppendBytes([]byte{1<<3 | 2}, details(60)), 1<<14), false},
		"many unknown fields":  {bytes.Repeat([]byte{9 << 3, 1}, 1<<20), false},
		"a group":              {[]byte{1<<3 | 3, 1<<3 | 4}, false},
		"a field too long":     {[]byte{2<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xf}, false},
		"a number without end": {bytes.Repeat([]byte{0x80}, 20), false},
	} {
		t.Run(name, func(t *testing.T) {
			// Twice: the next message begins anew.
			message := bytes.Repeat(frame(c.payload), 2)
			if err := (&checkedConn{}).check(message); (err == nil) != c.good || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("at once: %v", err)
			}
			pieces := &checkedConn{}
			var err error
			for rest := message; len(rest) > 0 && err == nil; {
				n := min(7, len(rest))
				err = pieces.check(rest[:n])
				rest = rest[n:]
			}
			if (err == nil) != c.good {
				t.Errorf("in pieces: %v", err)
			}
		})
	}
}

// guest is a dialer of one that writes what it likes.
type guest struct {
	t    *testing.T
	says []byte
}

func (g guest) Dial(context.Context, uint32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Read(make([]byte, 1<<10)) // the greeting
		_, _ = theirs.Write(g.says)             // and then it stays silent
	}()
	g.t.Cleanup(func() { theirs.Close() })
	return ours, nil
}

func TestConnectEndsWithTheFirstMalformedMessage(t *testing.T) {
	for name, says := range map[string][]byte{
		"four gigabytes":     {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0},
		"no type of message": {0, 0, 0, 1, 0, 0, 0, 1, 9, 0, 0},
		"a request":          {0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0},
		"the guest's stream": {0, 0, 0, 1, 0, 0, 0, 2, 2, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := Connect(ctx, guest{t, says}); !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// agentOf serves Hello at a path.
type agentOf struct{ protocol.AgentService }

func (agentOf) Hello(context.Context, *protocol.HelloRequest) (*protocol.HelloResponse, error) {
	return &protocol.HelloResponse{Version: protocol.Version, KernelRelease: "6.1"}, nil
}

type unixDialer string

func (u unixDialer) Dial(ctx context.Context, _ uint32) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", string(u))
}

// serve lets an agent answer, until the server is closed, which served then tells.
func serve(t *testing.T, agent protocol.AgentService) (where unixDialer, server *ttrpc.Server, served <-chan error) {
	t.Helper()
	return serveService(t, func(server *ttrpc.Server) { protocol.RegisterAgentService(server, agent) })
}

func serveService(t *testing.T, register func(*ttrpc.Server)) (where unixDialer, server *ttrpc.Server, served <-chan error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err = ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(context.WithoutCancel(t.Context()), listener) }()
	return unixDialer(path), server, ended
}

func TestConnect(t *testing.T) {
	where, server, served := serve(t, agentOf{})
	client, err := Connect(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	if client.Guest.GetKernelRelease() != "6.1" {
		t.Errorf("the guest says %v", client.Guest)
	}
	if err := errors.Join(client.Close(), server.Close()); err != nil {
		t.Error(err)
	}
	<-served
}
