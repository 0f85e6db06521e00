package vsock

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/vsock/control"
	"kata-runtime/hypervisor/vsock/device"
)

const (
	// patience bounds what should take a moment.
	patience = 20 * time.Second
	// little is what the guest of a test takes until it says more.
	little = 4 << 10
)

// joined returns the Host's end of a joined connection, and the guest with its first
// packet to answer by.
func joined(t *testing.T) (*net.UnixConn, *drivertest.Guest, drivertest.Packet) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	vmm, file := drivertest.SocketPair(t)
	d := device.New(userCID, log)
	server := vhostuser.NewServer(vmm, d, log)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(nil) }()
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), server.Close()); err != nil {
			t.Error(err)
		}
		<-served
	})
	g := drivertest.NewGuest(t, file, 0)
	timer := time.AfterFunc(patience, g.EndRecv)
	t.Cleanup(func() { timer.Stop() })
	answer := make(chan drivertest.Packet, 1)
	go func() {
		request, _ := g.Recv()
		packet := request.Answer(drivertest.Response)
		packet.BufAlloc = little
		g.SendPacket(packet)
		answer <- packet
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := d.DialConn(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	host, theirs, err := control.StreamPair()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := control.Conn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); join(conn, socket) }()
	t.Cleanup(func() { _, _ = host.Close(), conn.Close(); <-done })
	_ = host.SetDeadline(time.Now().Add(patience))
	return host, g, <-answer
}

// A guest that takes no more, while it is sent something, can still send.
func TestGuestReadsNoMore(t *testing.T) {
	host, g, packet := joined(t)
	var hearing sync.WaitGroup
	hearing.Go(func() {
		for ok := true; ok; {
			_, ok = g.Recv()
		}
	})
	t.Cleanup(func() { g.EndRecv(); hearing.Wait() })
	wrote := make(chan error, 1)
	go func() {
		for {
			if _, err := host.Write(make([]byte, 32<<10)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	packet.Op, packet.Flags = drivertest.Shutdown, 1
	g.SendPacket(packet)
	if err := <-wrote; !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v", err)
	}
	packet.Op, packet.Flags, packet.Data = drivertest.Data, 0, []byte("late")
	g.SendPacket(packet)
	packet.Op, packet.Flags, packet.Data = drivertest.Shutdown, 2, nil
	g.SendPacket(packet)
	if got, err := io.ReadAll(host); err != nil || string(got) != "late" {
		t.Errorf("read %q, %v", got, err)
	}
}
