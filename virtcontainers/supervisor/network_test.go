package supervisor

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
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
	for _, test := range []struct {
		hosts bool
		want  []string
	}{
		{false, []string{"tcp:127.0.0.11:53", "tcp:127.0.0.1:8080", "udp:127.0.0.11:53"}},
		{true, []string{"tcp:127.0.0.1:8080"}},
	} {
		s := &server{
			log: slog.New(slog.DiscardHandler), hostNetwork: test.hosts, loopbackPorts: []string{"tcp:8080"},
			containers: map[string]*container{"c": {id: "c", resolvConf: conf}},
		}
		services, err := s.loopbackServices()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, service := range services {
			got = append(got, service.String())
		}
		slices.Sort(got)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("host's network %v: services %q, want %q", test.hosts, got, test.want)
		}
	}
}
