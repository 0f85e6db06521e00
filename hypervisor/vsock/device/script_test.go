package device_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/vsock/device"
)

// guestPort is the guest's port in tests that play the guest packet by packet.
const guestPort = 4000

// packet is one of the guest's, from guestPort to a port of the host.
func packet(op uint16, hostPort uint32, data string) drivertest.Packet {
	return drivertest.Packet{
		SrcCID: 3, DstCID: 2, SrcPort: guestPort, DstPort: hostPort, Type: 1, Op: op,
		BufAlloc: drivertest.PeerBuffer, Data: []byte(data),
	}
}

// expect returns the device's next packet, which must have the operation op.
func expect(t *testing.T, g *drivertest.Guest, op uint16) drivertest.Packet {
	t.Helper()
	p, ok := g.Recv()
	if !ok || p.Op != op {
		t.Fatalf("device sent %+v, want operation %d", p, op)
	}
	if p.SrcCID != 2 || p.DstCID != 3 || p.Type != 1 {
		t.Fatalf("device sent %+v", p)
	}
	return p
}

// quiet checks that the device has sent nothing: it answers a question next.
func quiet(t *testing.T, g *drivertest.Guest, hostPort uint32) {
	t.Helper()
	g.SendPacket(packet(drivertest.CreditRequest, hostPort, ""))
	expect(t, g, drivertest.CreditUpdate)
}

// accepted returns a connection that the guest has made to port 9 of the host.
func accepted(t *testing.T) (*device.Device, *drivertest.Guest, *device.Conn) {
	t.Helper()
	d, g := setup(t, everyFeature)
	l, err := d.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	g.SendPacket(packet(drivertest.Request, 9, ""))
	response := expect(t, g, drivertest.Response)
	if response.SrcPort != 9 || response.DstPort != guestPort || response.BufAlloc == 0 {
		t.Fatalf("response is %+v", response)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return d, g, conn.(*device.Conn)
}

func TestAcceptedConnection(t *testing.T) {
	_, g, conn := accepted(t)
	if got := conn.LocalAddr().String(); got != "host(2):9" {
		t.Errorf("local address is %s", got)
	}
	if got := conn.RemoteAddr().String(); got != "vm(3):4000" || conn.RemoteAddr().Network() != "vsock" {
		t.Errorf("remote address is %s", got)
	}
	g.SendPacket(packet(drivertest.Data, 9, "to the "))
	g.SendPacket(packet(drivertest.Data, 9, "host"))
	got := make([]byte, 11)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "to the host" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := conn.Write([]byte("to the guest")); err != nil {
		t.Error(err)
	}
	if p := expect(t, g, drivertest.Data); string(p.Data) != "to the guest" || p.FwdCnt != 11 {
		t.Errorf("guest received %+v", p)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if p := expect(t, g, drivertest.Shutdown); p.Flags != 3 {
		t.Errorf("shutdown is %+v", p)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := conn.Read(got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := conn.Write(got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	// The guest's confirmation, and what it sent before it knew.
	g.SendPacket(packet(drivertest.Reset, 9, ""))
	g.SendPacket(packet(drivertest.Data, 9, "late"))
	expect(t, g, drivertest.Reset)
}

func TestRefused(t *testing.T) {
	d, g := setup(t, everyFeature)
	g.SendPacket(packet(drivertest.Request, 10, ""))
	if p := expect(t, g, drivertest.Reset); p.SrcPort != 10 || p.DstPort != guestPort {
		t.Errorf("refusal is %+v", p)
	}
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	_, err := d.Dial(t.Context(), 99)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial where nobody listens: %v", err)
	}
	if op := new(net.OpError); !errors.As(err, &op) || op.Op != "dial" || op.Addr.String() != "vm(3):99" {
		t.Errorf("dial where nobody listens: %v", err)
	}
}

// TestCreditOfTheGuest: never more than the guest's buffer takes.
func TestCreditOfTheGuest(t *testing.T) {
	_, g, conn := accepted(t)
	update := packet(drivertest.CreditUpdate, 9, "")
	update.BufAlloc = 1000
	g.SendPacket(update)
	quiet := func() {
		t.Helper()
		ask := update
		ask.Op = drivertest.CreditRequest
		g.SendPacket(ask)
		expect(t, g, drivertest.CreditUpdate)
	}
	quiet()
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, 2500))
		written <- err
	}()
	if p := expect(t, g, drivertest.Data); p.Len != 1000 {
		t.Fatalf("first packet has %d bytes", p.Len)
	}
	quiet()
	update.FwdCnt = 600
	g.SendPacket(update)
	if p := expect(t, g, drivertest.Data); p.Len != 600 {
		t.Fatalf("second packet has %d bytes", p.Len)
	}
	quiet()
	update.BufAlloc, update.FwdCnt = 100, 600 // less than is on its way
	g.SendPacket(update)
	quiet()
	update.FwdCnt = 1_000_000 // more than was ever sent
	g.SendPacket(update)
	quiet()
	update.BufAlloc, update.FwdCnt = 5000, 1600
	g.SendPacket(update)
	if p := expect(t, g, drivertest.Data); p.Len != 900 {
		t.Fatalf("last packet has %d bytes", p.Len)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestCreditOfTheHost: a guest that keeps to its credit loses nothing, and gets
// more as the host reads; one that does not is cut off.
func TestCreditOfTheHost(t *testing.T) {
	_, g, conn := accepted(t)
	g.SendPacket(packet(drivertest.CreditRequest, 9, ""))
	window := expect(t, g, drivertest.CreditUpdate).BufAlloc
	full := string(make([]byte, window))
	g.SendPacket(packet(drivertest.Data, 9, full))
	quiet(t, g, 9)
	if n, err := io.ReadFull(conn, make([]byte, window/2)); err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	update := expect(t, g, drivertest.CreditUpdate)
	if update.FwdCnt != window/2 || update.BufAlloc < window {
		t.Errorf("credit after half was read: %+v", update)
	}
	if update.BufAlloc == window {
		t.Errorf("the window of a guest that uses it up stays at %d", window)
	}
	g.SendPacket(packet(drivertest.Data, 9, full))
	g.SendPacket(packet(drivertest.Data, 9, full[:update.BufAlloc-window/2-window]))
	quiet(t, g, 9)
	g.SendPacket(packet(drivertest.Data, 9, "!"))
	expect(t, g, drivertest.Reset)
	n, err := io.Copy(io.Discard, conn)
	if n != int64(update.BufAlloc) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes and %v, want %d and ECONNRESET", n, err, update.BufAlloc)
	}
}

func TestHalfClose(t *testing.T) {
	t.Run("by the host", func(t *testing.T) {
		_, g, conn := accepted(t)
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if p := expect(t, g, drivertest.Shutdown); p.Flags != 2 {
			t.Errorf("shutdown is %+v", p)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after it: %v", err)
		}
		g.SendPacket(packet(drivertest.Data, 9, "still open"))
		b := make([]byte, 20)
		if n, err := conn.Read(b); err != nil || string(b[:n]) != "still open" {
			t.Errorf("read %q, %v", b[:n], err)
		}
	})
	t.Run("by the guest", func(t *testing.T) {
		_, g, conn := accepted(t)
		g.SendPacket(packet(drivertest.Data, 9, "all"))
		shut := packet(drivertest.Shutdown, 9, "")
		shut.Flags = 2
		g.SendPacket(shut)
		if got, err := io.ReadAll(conn); err != nil || string(got) != "all" {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := conn.Write([]byte("still open")); err != nil {
			t.Error(err)
		}
		if p := expect(t, g, drivertest.Data); string(p.Data) != "still open" {
			t.Errorf("guest received %+v", p)
		}
	})
	t.Run("of the guest's reading", func(t *testing.T) {
		_, g, conn := accepted(t)
		shut := packet(drivertest.Shutdown, 9, "")
		shut.Flags = 1
		g.SendPacket(shut)
		g.SendPacket(packet(drivertest.Data, 9, "still open"))
		b := make([]byte, 20)
		if n, err := conn.Read(b); err != nil || string(b[:n]) != "still open" {
			t.Errorf("read %q, %v", b[:n], err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestGuestCloses(t *testing.T) {
	_, g, conn := accepted(t)
	g.SendPacket(packet(drivertest.Data, 9, "last words"))
	shut := packet(drivertest.Shutdown, 9, "")
	shut.Flags = 3
	g.SendPacket(shut)
	expect(t, g, drivertest.Reset) // at once, though nothing was read
	if got, err := io.ReadAll(conn); err != nil || string(got) != "last words" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	// No packet for a connection that both sides have closed.
	g.SendPacket(packet(drivertest.Request, 10, ""))
	expect(t, g, drivertest.Reset)
}

func TestGuestResets(t *testing.T) {
	_, g, conn := accepted(t)
	g.SendPacket(packet(drivertest.Data, 9, "cut"))
	g.SendPacket(packet(drivertest.Reset, 9, ""))
	if got, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) || string(got) != "cut" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
	// A reset is not answered with one: the next packet is another's answer.
	g.SendPacket(packet(drivertest.Reset, 9, ""))
	other := packet(drivertest.Request, 10, "")
	g.SendPacket(other)
	if p := expect(t, g, drivertest.Reset); p.SrcPort != 10 {
		t.Errorf("device sent %+v", p)
	}
}

// TestStrayPackets: what belongs to no connection harms none.
func TestStrayPackets(t *testing.T) {
	_, g, conn := accepted(t)
	foreign := packet(drivertest.Reset, 9, "")
	foreign.SrcCID = 4
	g.SendPacket(foreign)
	foreign = packet(drivertest.Reset, 9, "")
	foreign.DstCID = 1
	g.SendPacket(foreign)
	quiet(t, g, 9)
	for op := range uint16(10) {
		stray := packet(op, 77, "")
		if op == drivertest.Reset {
			continue
		}
		g.SendPacket(stray)
		if p := expect(t, g, drivertest.Reset); p.SrcPort != 77 {
			t.Errorf("answer to a stray packet: %+v", p)
		}
	}
	seqpacket := packet(drivertest.Request, 9, "")
	seqpacket.Type = 2
	g.SendPacket(seqpacket)
	if p, _ := g.Recv(); p.Op != drivertest.Reset || p.Type != 2 {
		t.Errorf("answer to another socket type: %+v", p)
	}
	g.SendPacket(packet(drivertest.Data, 9, "ok"))
	b := make([]byte, 3)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "ok" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	// Of a known connection, though, nonsense is its end.
	g.SendPacket(packet(99, 9, ""))
	expect(t, g, drivertest.Reset)
	if _, err := conn.Read(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}

func TestBacklog(t *testing.T) {
	d, g := setup(t, everyFeature)
	l, err := d.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(9); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen twice: %v", err)
	}
	accepted := 0
	for port := uint32(1); ; port++ {
		request := packet(drivertest.Request, 9, "")
		request.SrcPort = port
		g.SendPacket(request)
		if p, _ := g.Recv(); p.Op == drivertest.Reset {
			break
		}
		accepted++
	}
	if accepted != 1024 {
		t.Errorf("%d connections wait at a listener", accepted)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for range accepted {
		expect(t, g, drivertest.Shutdown)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	// Everything is free again.
	l, err = d.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	g.SendPacket(packet(drivertest.Request, 9, ""))
	expect(t, g, drivertest.Response)
	if _, err := l.Accept(); err != nil {
		t.Error(err)
	}
}

func TestPause(t *testing.T) {
	d, g, conn := accepted(t)
	g.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if n, err := conn.Write([]byte("lost")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %d bytes, %v", n, err)
	}
	_ = conn.SetDeadline(time.Time{})
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write([]byte("kept"))
		written <- err
	}()
	g.Resume()
	// Neither the dial nor the write that came too late are seen.
	if p := expect(t, g, drivertest.Data); string(p.Data) != "kept" {
		t.Errorf("guest received %+v", p)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	g.SendPacket(packet(drivertest.Data, 9, "ok"))
	b := make([]byte, 3)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "ok" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// TestGuestRestarts: another driver knows nothing of old connections, but a
// dial that the guest has not seen yet is for whoever comes.
func TestGuestRestarts(t *testing.T) {
	d, g, conn := accepted(t)
	g.Pause()
	dialled := make(chan error, 1)
	go func() {
		c, err := d.Dial(t.Context(), drivertest.EchoPort)
		if err == nil {
			err = c.Close()
		}
		dialled <- err
	}()
	g.Restart()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	if err := <-dialled; err != nil {
		t.Errorf("dial across a restart: %v", err)
	}
	if err := echo(dial(t, d, drivertest.EchoPort), 100_000); err != nil {
		t.Error(err)
	}
}

// TestMemoryChanges: memory comes and goes while data flows.
func TestMemoryChanges(t *testing.T) {
	d, g := setup(t, everyFeature)
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	conn := dial(t, d, drivertest.EchoPort)
	done := make(chan error, 1)
	go func() { done <- echo(conn, 16<<20) }()
	more := drivertest.Region{Guest: 1 << 40, Size: 1 << 20, User: 1 << 41}
	for finished := false; !finished; {
		g.AddMemory(more)
		g.RemoveMemory(more)
		select {
		case err := <-done:
			finished = true
			if err != nil {
				t.Error(err)
			}
		default:
		}
	}
}

func TestClose(t *testing.T) {
	d, g, conn := accepted(t)
	update := packet(drivertest.CreditUpdate, 9, "")
	update.BufAlloc = 1
	g.SendPacket(update)
	l, err := d.Listen(11)
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 4)
	go func() { _, err := conn.Read(make([]byte, 1)); errs <- err }()
	go func() { _, err := conn.Write(make([]byte, 100_000)); errs <- err }()
	go func() { _, err := l.Accept(); errs <- err }()
	go func() { _, err := d.Dial(context.Background(), 1); errs <- err }()
	for range 2 { // the request and the data that the guest has credit for
		if _, ok := g.Recv(); !ok {
			t.Fatal("device has stopped")
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the end of the device: %v", err)
		}
	}
	if _, err := d.Listen(12); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen: %v", err)
	}
	// The VMM must still get answers.
	g.Pause()
	g.Resume()
}
