//go:build vm

package virtiofsd

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
)

// start starts the installed daemon.
func start(t *testing.T) *Daemon {
	t.Helper()
	d, err := Start(t.Context(), Options{SharedDir: t.TempDir(), SocketDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Stop() })
	return d
}

func TestFindInstalled(t *testing.T) {
	found, err := Find("")
	if err != nil || found.Version == "" {
		t.Fatalf("got %+v, %v", found, err)
	}
	t.Logf("%+v", found)
}

// TestDaemonAnswers has the daemon answer the first message of every VMM,
// VHOST_USER_GET_FEATURES, so that it is known to have come up.
func TestDaemonAnswers(t *testing.T) {
	d := start(t)
	fd := int(d.Socket().Fd())
	// request 1, version 1, no payload
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	// The header and 8 bytes of features, which come apart.
	answer := make([]byte, 20)
	for have := 0; have < len(answer); {
		n, err := unix.Read(fd, answer[have:])
		if err != nil || n == 0 {
			t.Fatalf("after %d bytes: %v; stderr: %s", have, err, d.Stderr())
		}
		have += n
	}
	if answer[0] != 1 {
		t.Errorf("answered %x", answer)
	}
}

// TestDaemonFollowsTheVMM closes the socket, as a VMM's end does.
func TestDaemonFollowsTheVMM(t *testing.T) {
	d := start(t)
	d.CloseSocket()
	var exit *hypervisor.ExitError
	if err := d.Wait(t.Context()); err != nil && !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
}
