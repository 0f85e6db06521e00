package passt

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
)

func TestArguments(t *testing.T) {
	v4, v6 := net.ParseIP("192.0.2.2"), net.ParseIP("2001:db8::2")
	for _, test := range []struct {
		addresses []net.IP
		want, not []string
	}{
		{[]net.IP{v4}, []string{"--address 192.0.2.2", "--ipv4-only", "--tcp-ports 80", "--udp-ports none"}, []string{"--ipv6-only"}},
		{[]net.IP{v6}, []string{"--address 2001:db8::2", "--ipv6-only"}, []string{"--ipv4-only"}},
		{[]net.IP{v4, v6}, []string{"--address 192.0.2.2", "--address 2001:db8::2", "--gateway 192.0.2.2"}, []string{"-only"}},
	} {
		line := strings.Join(arguments(Options{Addresses: test.addresses, Gateways: test.addresses, TCPPorts: "80", UDPPorts: "none"}), " ")
		for _, text := range test.want {
			if !strings.Contains(line, text) {
				t.Errorf("%v: %q lacks %q", test.addresses, line, text)
			}
		}
		if i := slices.IndexFunc(test.not, func(text string) bool { return strings.Contains(line, text) }); i >= 0 {
			t.Errorf("%v: %q has %q", test.addresses, line, test.not[i])
		}
	}
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Start(t.Context(), Options{}); !errors.Is(err, ErrNotInstalled) {
		t.Error(err)
	}
}

// start runs a script in passt's place.
func start(t *testing.T, script string) *Daemon {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passt")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	starter := child.NewStarter()
	t.Cleanup(starter.Close)
	d, err := Start(t.Context(), Options{Path: path, Starter: starter, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Stop() })
	return d
}

func TestLastWords(t *testing.T) {
	d := start(t, "echo no routable interface >&2; exit 1")
	var exit *hypervisor.ExitError
	if err := d.Wait(t.Context()); !errors.As(err, &exit) || !strings.Contains(err.Error(), "no routable interface") {
		t.Errorf("error %v", err)
	}
}

func TestStop(t *testing.T) {
	d := start(t, "exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	for range 2 {
		if err := d.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Wait(t.Context()); err != nil {
		t.Errorf("error %v after Stop", err)
	}
}

// TestEndsWithTheVMM has passt see the end of its socket.
func TestEndsWithTheVMM(t *testing.T) {
	d := start(t, "cat <&3 >/dev/null")
	d.Socket().Close()
	if err := d.Wait(t.Context()); err != nil {
		t.Errorf("error %v", err)
	}
}
