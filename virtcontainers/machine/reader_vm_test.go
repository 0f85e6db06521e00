//go:build vm

package machine

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/jail/jailtest"
	"kata-runtime/hypervisor/virtio/backend"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case jail.Command:
			os.Exit(jail.Become(os.Args[2:]))
		case backend.Command:
			os.Exit(backend.Run(os.Args[2:], map[string]backend.Role{jailtest.Role: jailtest.BackEnd}))
		}
	}
	os.Exit(m.Run())
}

// A probe in the place of the process that reads what the agent says reaches nothing
// but what it was given.
func TestProbeReader(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(secret, []byte("a canary"), 0o666); err != nil {
		t.Fatal(err)
	}
	targets := jailtest.Targets{Files: []string{secret}, Processes: []int{os.Getpid()}}
	targets.Handle, targets.HandleType = jailtest.Handle(t, secret)
	starter := child.NewStarter()
	defer starter.Close()
	const user = 2_000_001_236
	r := jailtest.ProbeBackEnd(t, targets, func(settings any) (*child.Helper, error) {
		process, err := backend.Start(t.Context(), backend.Options{
			Role: jailtest.Role, Settings: settings, Jail: readerJail(&jail.Options{Dir: t.TempDir(), User: user}),
			Starter: starter, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() {
			if err := process.Stop(); err != nil {
				t.Error(err)
			}
		})
		return process.Helper, nil
	})
	if len(r.Reached) > 0 {
		t.Errorf("it has reached %q", r.Reached)
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
