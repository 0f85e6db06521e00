//go:build vm

package virtiofsd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/jail/jailtest"
)

// probeVariable tells the test that it is in a mount namespace of its own.
const probeVariable = "VIRTIOFSD_TEST_PROBE"

// A probe in the place of the daemon reaches what it serves, and nothing else of the
// host.
func TestProbe(t *testing.T) {
	if os.Getenv(probeVariable) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProbe$", "-test.v")
		cmd.Env = append(os.Environ(), probeVariable+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS} // and what is mounted there stays there
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	top := t.TempDir()
	share, other := filepath.Join(top, "share"), filepath.Join(top, "other")
	secret := filepath.Join(top, "outside")
	for _, dir := range []string{filepath.Join(share, "mounted"), filepath.Join(share, "readonly"), other} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.WriteFile(secret, []byte("a canary"), 0o666), os.Symlink(secret, filepath.Join(other, "link")),
		unix.Mount(other, filepath.Join(share, "mounted"), "", unix.MS_BIND, ""),
		unix.Mount(other, filepath.Join(share, "readonly"), "", unix.MS_BIND, ""),
		unix.Mount("", filepath.Join(share, "readonly"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{"mounted", "readonly"} {
			_ = unix.Unmount(filepath.Join(share, name), unix.MNT_DETACH)
		}
	})
	targets := jailtest.Targets{Files: []string{secret, other}, Processes: []int{os.Getppid()}}
	targets.Handle, targets.HandleType = jailtest.Handle(t, secret)
	program := jailtest.Build(t, "virtiofsd", targets)
	d, err := Start(t.Context(), Options{Path: program, SharedDir: share, SocketDir: t.TempDir(), Jail: &jail.Options{Dir: t.TempDir()}})
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
