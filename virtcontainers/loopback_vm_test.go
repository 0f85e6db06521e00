//go:build vm

package virtcontainers_test

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/osthread"
	"kata-runtime/virtcontainers/sandboxtest"
)

func TestLoopbackOfASandbox(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	created := sandboxtest.Requests[*protocol.CreateSandboxRequest](guest, "CreateSandbox")[0]
	if created.GetLoopbackPort() != protocol.LoopbackPort || len(created.GetLoopbackToken()) != relay.TokenLength {
		t.Errorf("the agent is told port %d and a token of %d bytes", created.GetLoopbackPort(), len(created.GetLoopbackToken()))
	}
	services, err := loopback.ParseServices([]string{"tcp:81"})
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.SetLoopbackServices(services); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("services before the start: %v, want ErrState", err)
	}
	// The namespace is never the host's: all of its loopback is redirected.
	host, err := network.OpenNamespace("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := sandbox.StartLoopback(host.File(), nil, false); !errors.Is(err, namespace.ErrHost) {
		t.Errorf("loopback of the host: %v, want ErrHost", err)
	}
	if err := sandbox.JoinNetwork(host, nil); !errors.Is(err, namespace.ErrHost) { // closes it
		t.Errorf("the network of the host: %v, want ErrHost", err)
	}
	err = osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		pods, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		err = sandbox.StartLoopback(pods, nil, false)
		pods.Close()
		if err != nil {
			return err
		}
		if err := sandbox.StartLoopback(pods, nil, false); !errors.Is(err, virtcontainers.ErrState) {
			t.Errorf("start twice: %v, want ErrState", err)
		}
		if err := sandbox.SetLoopbackServices(services); err != nil {
			return err
		}
		for _, address := range []string{"127.0.0.1:80", "127.0.0.1:81"} {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_, err = io.ReadAll(conn)
				conn.Close()
			}
			if err == nil {
				t.Errorf("a connection to %s is not refused", address)
			}
		}
		if err := sandbox.Stop(t.Context()); err != nil {
			return err
		}
		if _, err := net.Dial("tcp", "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after the end: %v, want a refusal", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint16{80}; !slices.Equal(guest.Forwarded(), want) {
		t.Errorf("ports %v reached the guest, want %v", guest.Forwarded(), want)
	}
	if err := sandbox.StartLoopback(os.Stdin, nil, false); !errors.Is(err, virtcontainers.ErrMachineEnded) {
		t.Errorf("start after the end: %v, want ErrMachineEnded", err)
	}
}
