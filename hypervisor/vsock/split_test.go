package vsock_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/vsock"
	"kata-runtime/hypervisor/vsock/control"
)

// hostile is a device's process that was taken over: it answers each request as its
// settings name.
func hostile(_ context.Context, in *backend.Inherited) error {
	var mood string
	if err := json.Unmarshal(in.Settings, &mood); err != nil {
		return err
	}
	conn, err := control.Conn(in.Files[0])
	if err != nil {
		return err
	}
	for {
		m, file, err := control.ReceiveRequest(conn)
		if err != nil {
			return err
		}
		answer := control.Message{Kind: control.Answer, ID: m.ID}
		var rights []byte
		switch mood {
		case "unasked":
			answer.ID += 1000
		case "garbage":
			answer.Kind = 99
		case "twice":
			_ = control.Send(conn, answer, nil)
		case "descriptors":
			rights = unix.UnixRights(0, 1, 2)
		case "exits":
			return errors.New("taken over")
		case "fails first":
			_ = control.Send(conn, control.Message{Kind: control.Failed, Errno: syscall.ECONNRESET}, nil)
		case "silent":
			continue
		case "closes":
			_ = file.Close()
		}
		if _, _, err := conn.WriteMsgUnix(answer.Encode(), rights, nil); err != nil {
			return err
		}
	}
}

// Whatever the process does, the Host ends it, or goes on; it keeps nothing.
func TestHostileProcess(t *testing.T) {
	openRole(t, "closes").Close() // opens the poller
	before := openFiles(t)
	for _, mood := range []string{"unasked", "garbage", "twice", "descriptors", "exits"} {
		t.Run(mood, func(t *testing.T) {
			h := openRole(t, mood)
			l, err := h.Listen(1)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if conn, err := h.Dial(ctx, 5); err == nil && mood != "twice" {
				t.Errorf("connected: %v", conn)
			}
			err = h.Helper().Wait(ctx)
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("its process: %v", err)
			}
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v", err)
			}
			if _, err := h.Dial(ctx, 5); err == nil || ctx.Err() != nil {
				t.Errorf("dial after its end: %v", err)
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		h := openRole(t, "silent")
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := h.Dial(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial: %v", err)
			}
			cancel()
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	// The rest of the answers of a device that has ended are no lie.
	t.Run("fails first", func(t *testing.T) {
		h := openRole(t, "fails first")
		for range 2 {
			if conn, err := h.Dial(t.Context(), 5); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("connected: %v, %v", conn, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := h.Helper().Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its process: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("closes", func(t *testing.T) {
		h := openRole(t, "closes")
		conn, err := h.Dial(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if after := openFiles(t); after > before {
		t.Errorf("%d open files, before %d", after, before)
	}
}

func openRole(t *testing.T, mood string) vsock.Host {
	t.Helper()
	h, err := vsock.OpenRole(t.Context(), "hostile", mood, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// The end of the device's process is an error that says so.
func TestProcessDies(t *testing.T) {
	h := openUser(t)
	l, err := h.Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	g := drivertest.NewGuest(t, h.Device().Backend, 0)
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	conn, err := h.Dial(t.Context(), drivertest.EchoPort)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	if err := syscall.Kill(h.Helper().PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "process of the vsock device") {
		t.Errorf("accept: %v", err)
	}
	if _, err := h.Dial(t.Context(), 1); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial: %v", err)
	}
	if err := h.Helper().Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("wait: %v", err)
	}
}

// Both directions end for themselves, and closing ends both.
func TestConnectionEnds(t *testing.T) {
	h := openUser(t)
	g := drivertest.NewGuest(t, h.Device().Backend, 0)
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	for round := range 30 {
		conn, err := h.Dial(t.Context(), drivertest.EchoPort)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 1<<(10+round%12)+round)
		_, _ = rand.NewChaCha8([32]byte{byte(round)}).Read(data)
		go func() {
			_, _ = conn.Write(data)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		// A reader that is slow, or takes little, loses nothing and gets it in order.
		var from io.Reader = conn
		if round%3 > 0 {
			from = iotest.HalfReader(bufio.NewReaderSize(conn, 1<<(4+round%12)))
		}
		if got, err := io.ReadAll(from); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes of %d, %v", len(got), len(data), err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Dial(t.Context(), 9999); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v", err)
	}
}

// A guest that breaks its device ends it for the Host at once, though the VMM lives.
func TestBrokenGuest(t *testing.T) {
	h := openUser(t)
	l, err := h.Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	g := drivertest.NewGuest(t, h.Device().Backend, 0)
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	g.TX.SetAvail(5000) // more than the queue has
	g.Kick(1)
	if err := <-accepted; !errors.Is(err, net.ErrClosed) || !errors.Is(err, syscall.EPROTO) {
		t.Errorf("accept: %v", err)
	}
	if _, err := h.Dial(t.Context(), 1); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("dial: %v", err)
	}
	if _, err := h.Listen(2); !errors.Is(err, syscall.EPROTO) {
		t.Errorf("listen: %v", err)
	}
}
