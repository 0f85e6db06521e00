package vsock_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"testing"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/vsock"
)

func openUser(t testing.TB) vsock.Host {
	t.Helper()
	h, err := vsock.Open(t.Context(), vsock.Options{Mode: vsock.ModeUser, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestUserHost(t *testing.T) {
	h := openUser(t)
	d := h.Device()
	if d.ID != "vsock0" || d.CID < 3 || d.Backend == nil || d.Vhost != nil {
		t.Fatalf("device is %+v", d)
	}
	if h.Kind() != "user" {
		t.Errorf("kind %q", h.Kind())
	}
	// Before the VM starts.
	l, err := h.Listen(1026)
	if err != nil {
		t.Fatal(err)
	}
	g := drivertest.NewGuest(t, d.Backend, 0)
	g.SendPacket(drivertest.Packet{SrcCID: uint64(d.CID), DstCID: 2, SrcPort: 5, DstPort: 1026, Type: 1, Op: drivertest.Request})
	fromGuest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	conn, err := h.Dial(t.Context(), drivertest.EchoPort)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "echo"); err != nil {
		t.Error(err)
	}
	if _, err := d.Backend.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the VMM's end is still open in this process: %v", err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "echo" {
		t.Errorf("read %q, %v", got, err)
	}
	// The VMM ends.
	_ = g.Conn.Close()
	if _, err := fromGuest.Read(got); !errors.Is(err, io.EOF) {
		t.Errorf("read after the VMM's end: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after the VMM's end: %v", err)
	}
	if _, err := h.Dial(t.Context(), 1); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial after the VMM's end: %v", err)
	}
}

// TestUserHostCloses: before a VMM came, and twice.
func TestUserHostCloses(t *testing.T) {
	h := openUser(t)
	l, err := h.Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	backend := h.Device().Backend
	errs := make(chan error, 2)
	go func() { _, err := l.Accept(); errs <- err }()
	go func() { _, err := h.Dial(context.Background(), 1); errs <- err }()
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
	if _, err := h.Listen(2); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen after close: %v", err)
	}
	if _, err := backend.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the VMM's end is left open: %v", err)
	}
}

func TestModes(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if _, err := vsock.Open(t.Context(), vsock.Options{Mode: "other", Log: log}); err == nil {
		t.Error("an unknown mode was taken")
	}
	_, missing := os.Stat("/dev/vhost-vsock")
	h, err := vsock.Open(t.Context(), vsock.Options{Mode: vsock.ModeVhost, Log: log})
	if err == nil {
		_ = h.Close()
	}
	if missing != nil && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("vhost without its device: %v", err)
	}
	auto, autoErr := vsock.Open(t.Context(), vsock.Options{Log: log})
	if autoErr != nil {
		t.Fatal(autoErr)
	}
	defer func() { _ = auto.Close() }()
	want := "user"
	if err == nil {
		want = "vhost"
	}
	if auto.Kind() != want {
		t.Errorf("auto chose %q, want %q", auto.Kind(), want)
	}
}
