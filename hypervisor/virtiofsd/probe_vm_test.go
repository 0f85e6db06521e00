//go:build vm

package virtiofsd

import (
	"errors"
	"os"
	"slices"
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/jail/jailtest"
)

// A probe in the place of the daemon reaches what it serves, and nothing else of the
// host.
func TestProbe(t *testing.T) {
	if !jailtest.Alone(t) {
		return
	}
	targets := jailtest.Share(t)
	targets.Processes = []int{os.Getppid()}
	program := jailtest.Build(t, "virtiofsd", targets)
	d, err := Start(t.Context(), Options{Path: program, SharedDir: targets.Share, SocketDir: t.TempDir(), Jail: &jail.Options{Dir: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Stop() }()
	var exit *hypervisor.ExitError
	if err := d.Wait(t.Context()); !errors.As(err, &exit) {
		t.Fatalf("%v: %s", err, d.Stderr())
	}
	r := jailtest.Decode(t, exit.Stderr)
	// It takes on the users of those whose files it makes, and gives up capabilities
	// by itself. What it gives up it does not get back: the bounding set is small.
	want := []string{"become another group", "become another user", "join groups", "lock all memory", "unlock securebits"}
	if !slices.Equal(r.Reached, want) {
		t.Errorf("it has reached %q, want %q", r.Reached, want)
	}
	for _, kind := range r.Descriptors {
		if !slices.Contains([]string{"anonymous", "device 1:3", "pipe", "socket 1"}, kind) {
			t.Errorf("it has inherited: %s", kind)
		}
	}
	t.Logf("of %d attempts, %d ended the process; it saw %q and had open: %q", r.Attempts, len(r.Killed), r.Files, r.Descriptors)
}
