package vsock

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/vsock/control"
)

// What the host forbids is left out of the device's jail too.
func TestJailLeavesOut(t *testing.T) {
	without := []string{jail.PartKeyring, "net"}
	if spec := confinement(&jail.Options{Without: without}); !slices.Equal(spec.Without, without) {
		t.Errorf("left out of the jail: %q, want %q", spec.Without, without)
	}
	if spec := confinement(nil); spec != nil {
		t.Errorf("unconfined, it has the jail %+v", spec)
	}
}

// The process ends when its Host has gone, whatever that was doing.
func TestServeEndsWithItsHost(t *testing.T) {
	host, theirs, err := control.Pair()
	if err != nil {
		t.Fatal(err)
	}
	vmm, _ := drivertest.SocketPair(t)
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(context.Background(), &backend.Inherited{
			VMM: vmm, Files: []*os.File{theirs}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
	}()
	if err := control.Send(host, control.Message{Kind: control.Listen, Port: 1}, nil); err != nil {
		t.Error(err)
	}
	for _, kind := range []control.Kind{control.Accept, control.Dial} {
		conn, end, err := control.StreamPair()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := control.Send(host, control.Message{Kind: kind, ID: uint64(kind), Port: 1}, end); err != nil {
			t.Error(err)
		}
		_ = end.Close()
	}
	_ = host.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on without its host")
	}
}
