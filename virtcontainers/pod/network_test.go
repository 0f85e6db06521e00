package pod

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/loopback"
)

// TestLoopbackServices has a container whose resolv.conf names a server of
// loopback: a guest may have written it, and must not choose the host's servers
// where the pod's namespace is the host's.
func TestLoopbackServices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.11\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conf.Close()
	configured, err := loopback.ParseServices([]string{"tcp:8080"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		network Network
		want    []string
	}{
		{NetworkOwn, []string{"tcp:127.0.0.11:53", "tcp:127.0.0.1:8080", "udp:127.0.0.11:53"}},
		{NetworkHost, []string{"tcp:127.0.0.1:8080"}},
	} {
		p := New(Options{Network: test.network, Loopback: configured, Log: slog.New(slog.DiscardHandler)})
		p.containers["c"] = &Container{id: "c", resolvConf: conf}
		var got []string
		for _, service := range p.loopbackServices() {
			got = append(got, service.String())
		}
		slices.Sort(got)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("network %d: services %q, want %q", test.network, got, test.want)
		}
	}
}
