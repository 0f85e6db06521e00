package device_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/vsock/device"
)

// patience bounds what should take a moment.
const patience = time.Minute

// everyFeature is what Linux uses.
const everyFeature = drivertest.FeatureIndirect | drivertest.FeatureEventIndex

// setup returns a device that is served to a simulated guest.
func setup(t testing.TB, features uint64) (*device.Device, *drivertest.Guest) {
	t.Helper()
	d, g, _ := setupServer(t, features)
	return d, g
}

// setupServer also returns what tells how the session with the VMM ended.
func setupServer(t testing.TB, features uint64) (*device.Device, *drivertest.Guest, <-chan error) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	conn, file := drivertest.SocketPair(t)
	d := device.New(3, log)
	server := vhostuser.NewServer(conn, d, log)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(nil) }()
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), server.Close()); err != nil {
			t.Error(err)
		}
		ended <- <-ended
	})
	return d, drivertest.NewGuest(t, file, features), ended
}

func dial(t testing.TB, d *device.Device, port uint32) *device.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := d.Dial(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*device.Conn)
}

// echo sends size random bytes, ends the sending, and expects them back.
func echo(conn *device.Conn, size int) error {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	var sending sync.WaitGroup
	var sendErr error
	sending.Go(func() {
		if _, sendErr = conn.Write(data); sendErr == nil {
			sendErr = conn.CloseWrite()
		}
	})
	got, err := io.ReadAll(conn)
	sending.Wait()
	if err = errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", len(got), size, err)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%d bytes came back as %d others", size, len(got))
	}
	return nil
}

func TestEcho(t *testing.T) {
	for name, features := range map[string]uint64{
		"plain": 0, "event index": drivertest.FeatureEventIndex,
		"indirect": drivertest.FeatureIndirect, "both": everyFeature,
	} {
		t.Run(name, func(t *testing.T) {
			d, g := setup(t, features)
			peer := drivertest.NewPeer(g)
			defer peer.Close()
			for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000, 8 << 20} {
				if err := echo(dial(t, d, drivertest.EchoPort), size); err != nil {
					t.Error(err)
				}
			}
			if err := d.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

func Test500Connections(t *testing.T) {
	d, g := setup(t, everyFeature)
	peer := drivertest.NewPeer(g)
	defer peer.Close()
	conns := make([]*device.Conn, 500)
	for i := range conns {
		conns[i] = dial(t, d, drivertest.EchoPort)
	}
	var all sync.WaitGroup
	for _, conn := range conns {
		all.Go(func() {
			if err := echo(conn, 100_000); err != nil {
				t.Error(err)
			}
			_ = conn.Close()
		})
	}
	all.Wait()
}

// TestNetConn runs the tests that package net's own connections pass on two
// connections that the guest joins.
func TestNetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		d, g := setup(t, everyFeature)
		peer := drivertest.NewPeer(g)
		c1, err1 := d.Dial(t.Context(), drivertest.PipePort)
		c2, err2 := d.Dial(t.Context(), drivertest.PipePort)
		return c1, c2, func() {
			_, _ = c1.Close(), c2.Close()
			peer.Close()
		}, errors.Join(err1, err2)
	})
}
