//go:build vm

package fileserver

import (
	"log/slog"
	"os"
	"slices"
	"testing"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/jail/jailtest"
	"kata-runtime/hypervisor/virtio/backend"
)

// A probe in the place of the server reaches what it serves, and nothing else of the
// host.
func TestProbe(t *testing.T) {
	if !jailtest.Alone(t) {
		return
	}
	targets := jailtest.Share(t)
	targets.Processes = []int{os.Getppid()}
	starter := child.NewStarter()
	defer starter.Close()
	o := Options{SharedDir: targets.Share, Jail: &jail.Options{Dir: t.TempDir()}, Starter: starter, Log: slog.New(slog.DiscardHandler)}
	r := jailtest.ProbeBackEnd(t, targets, func(settings any) (*child.Helper, error) {
		p, err := backend.Start(t.Context(), options(o, jailtest.Role, settings))
		if err != nil {
			return nil, err
		}
		return p.Helper, nil
	})
	// It takes on the users of those whose files it makes.
	want := []string{"become another group", "become another user", "join groups"}
	if !slices.Equal(r.Reached, want) {
		t.Errorf("it has reached %q, want %q", r.Reached, want)
	}
	if len(r.Killed) < 40 {
		t.Errorf("it was ended for %d attempts only: %q", len(r.Killed), r.Killed)
	}
	for _, kind := range r.Descriptors {
		if !slices.Contains([]string{"anonymous", "device 1:3", "pipe", "socket 1"}, kind) {
			t.Errorf("it has inherited: %s", kind)
		}
	}
	t.Logf("of %d attempts, %d ended the process; it saw %q and had open: %q", r.Attempts, len(r.Killed), r.Files, r.Descriptors)
}
