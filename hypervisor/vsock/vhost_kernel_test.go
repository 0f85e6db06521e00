//go:build vhost

// These tests need /dev/vhost-vsock. TestVhostKernel, behind the tag vm, runs
// them in a VM that has it.

package vsock_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/vsock"
)

func openVhost(t *testing.T) (vsock.Host, *drivertest.Guest) {
	t.Helper()
	h, err := vsock.Open(t.Context(), vsock.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	d := h.Device()
	if h.Kind() != "vhost" || d.Vhost == nil || d.Backend != nil || d.CID < 3 || d.ID != "vsock0" {
		t.Fatalf("kind %q, device %+v", h.Kind(), d)
	}
	return h, drivertest.NewVhostGuest(t, d.Vhost, d.CID, drivertest.FeatureEventIndex)
}

func TestVhostDial(t *testing.T) {
	h, g := openVhost(t)
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	conn, err := h.Dial(t.Context(), drivertest.EchoPort)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	_, err = h.Dial(t.Context(), 99)
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial where nobody listens: %v", err)
	}
}

// request lets a guest ask for a connection to a port of the host.
func request(g *drivertest.Guest, port uint32) (answer drivertest.Packet) {
	g.SendPacket(drivertest.Packet{
		SrcCID: g.CID, DstCID: 2, SrcPort: 5000, DstPort: port, Type: 1,
		Op: drivertest.Request, BufAlloc: drivertest.PeerBuffer,
	})
	answer, _ = g.Recv()
	return answer
}

// TestVhostListen: two VMs want the same port, each gets its own connections
// and none of the other's.
func TestVhostListen(t *testing.T) {
	h1, g1 := openVhost(t)
	h2, g2 := openVhost(t)
	if h1.Device().CID == h2.Device().CID {
		t.Fatal("two guests have one CID")
	}
	l1, err1 := h1.Listen(1026)
	l2, err2 := h2.Listen(1026)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if _, err := h1.Listen(1026); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen twice: %v", err)
	}
	p1, p2 := hypervisor.DialedPort(l1), hypervisor.DialedPort(l2)
	if p1 == p2 || p1 == 0 || p2 == 0 {
		t.Fatalf("guests dial ports %d and %d", p1, p2)
	}
	for _, vm := range []struct {
		l    net.Listener
		g    *drivertest.Guest
		port uint32
	}{{l1, g1, p1}, {l2, g2, p2}} {
		if p := request(vm.g, vm.port); p.Op != drivertest.Response {
			t.Errorf("answer %+v", p)
		}
		conn, err := vm.l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Error(err)
		}
		if p, _ := vm.g.Recv(); string(p.Data) != "hello" {
			t.Errorf("guest received %+v", p)
		}
	}
	closed, err := h1.Listen(1027)
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	if _, err := closed.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept by a closed listener: %v", err)
	}
	// The kernel takes the connection to another's port; the Host ends it.
	accepted := make(chan error, 1)
	go func() {
		_, err := l2.Accept()
		accepted <- err
	}()
	g1.SendPacket(drivertest.Packet{SrcCID: g1.CID, DstCID: 2, SrcPort: 6000, DstPort: p2, Type: 1, Op: drivertest.Request})
	if p, _ := g1.Recv(); p.Op != drivertest.Response {
		t.Errorf("answer %+v", p)
	}
	if p, _ := g1.Recv(); p.Op != drivertest.Shutdown || p.Flags != 3 {
		t.Errorf("connection to another's port: %+v, want its end", p)
	}
	if err := h2.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accepted; err == nil {
		t.Error("the listener took another guest's connection")
	}
	if _, err := l2.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if _, err := h2.Listen(1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen after close: %v", err)
	}
}
