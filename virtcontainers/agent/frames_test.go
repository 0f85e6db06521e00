package agent

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/ttrpc"

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
	path := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err = ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	protocol.RegisterAgentService(server, agent)
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
