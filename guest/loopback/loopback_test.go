package loopback

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
)

// quiet is a Services with a host that is never reached.
func quiet(t *testing.T) *Services {
	t.Helper()
	s := NewServices(slog.New(slog.DiscardHandler), func(context.Context, uint32) (net.Conn, error) {
		return nil, unix.ECONNREFUSED
	})
	t.Cleanup(s.Close)
	return s
}

func tcpService(port uint32) *protocol.LoopbackService {
	return &protocol.LoopbackService{Network: "tcp", Address: []byte{127, 0, 0, 1}, Port: port}
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) uint32 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return uint32(listener.Addr().(*net.TCPAddr).Port)
}

func TestServicesThatAreNone(t *testing.T) {
	s := quiet(t)
	port := freePort(t)
	if err := s.Set([]*protocol.LoopbackService{tcpService(port)}); !errors.Is(err, errService) {
		t.Errorf("before Configure: %v", err)
	}
	if err := s.Set(nil); err != nil {
		t.Errorf("no services, before Configure: %v", err)
	}
	s.Configure(1, strings.Repeat("t", relay.TokenLength))
	bad := []*protocol.LoopbackService{
		{Network: "sctp", Address: []byte{127, 0, 0, 1}, Port: 80},
		{Network: "tcp", Address: []byte{10, 0, 0, 1}, Port: 80},
		{Network: "tcp", Address: []byte{0, 0, 0, 0}, Port: 80},
		{Network: "tcp", Address: []byte{127}, Port: 80},
		{Network: "tcp", Address: []byte{127, 0, 0, 1}},
		{Network: "udp", Address: []byte{127, 0, 0, 1}, Port: 1 << 16},
	}
	for _, item := range bad {
		if err := s.Set([]*protocol.LoopbackService{item}); !errors.Is(err, errService) {
			t.Errorf("%v: %v", item, err)
		}
	}
	// What is well is served beside what is not.
	if err := s.Set(append(bad, tcpService(port))); !errors.Is(err, errService) {
		t.Errorf("error %v", err)
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(int(port)))
	if err == nil {
		defer conn.Close()
		_, err = io.ReadAll(conn)
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a client whose host is not reached sees %v, want a reset", err)
	}
	s.Close()
	if err := s.Set([]*protocol.LoopbackService{tcpService(port)}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// forwarded starts Forward on a unix socket, whose path it returns.
func forwarded(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "forward")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Forward(ctx, slog.New(slog.DiscardHandler), listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestForwardAnswers(t *testing.T) {
	path := forwarded(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	open := listener.Addr().(*net.TCPAddr).Port
	header := func(port int) string {
		var buf bytes.Buffer
		if err := relay.WriteForwardHeader(&buf, relay.ForwardHeader{Port: uint16(port)}); err != nil {
			t.Fatal(err)
		}
		return buf.String()
	}
	for name, test := range map[string]struct {
		text string
		want string
	}{
		"a server":  {header(open), string(relay.Accepted)},
		"no server": {header(int(freePort(t))), string(relay.Refused)},
		"garbage":   {"GET / HTTP/1.1\r\n\r\n", ""},
		"nothing":   {"", ""},
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, test.text); err != nil {
			t.Error(err)
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Error(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, unix.ECONNRESET) || string(answer) != test.want {
			t.Errorf("%s: answer %q, %v, want %q", name, answer, err, test.want)
		}
		conn.Close()
	}
}
