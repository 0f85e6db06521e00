//go:build vm

package virtiofsd

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/jail"
)

// start starts the installed daemon.
func start(t *testing.T, options *jail.Options) *Daemon {
	t.Helper()
	d, err := Start(t.Context(), Options{SharedDir: t.TempDir(), SocketDir: t.TempDir(), Jail: options})
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

// getFeatures sends the first message of every VMM, VHOST_USER_GET_FEATURES, and
// reads the answer: then the daemon has come up.
func getFeatures(d *Daemon) error {
	fd := int(d.Socket().Fd())
	// request 1, version 1, no payload
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return err
	}
	// The header and 8 bytes of features, which come apart.
	answer := make([]byte, 20)
	for have := 0; have < len(answer); {
		n, err := unix.Read(fd, answer[have:])
		if err != nil || n == 0 {
			return fmt.Errorf("after %d bytes: %w; stderr: %s", have, errors.Join(err, io.ErrUnexpectedEOF), d.Stderr())
		}
		have += n
	}
	if answer[0] != 1 {
		return fmt.Errorf("answered %x", answer)
	}
	return nil
}

func TestDaemonAnswers(t *testing.T) {
	for name, options := range map[string]*jail.Options{"by itself": nil, "jailed": {Dir: t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			if err := getFeatures(start(t, options)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDaemonFollowsTheVMM closes the socket, as a VMM's end does.
func TestDaemonFollowsTheVMM(t *testing.T) {
	d := start(t, &jail.Options{Dir: t.TempDir()})
	_ = d.Socket().Close()
	var exit *hypervisor.ExitError
	if err := d.Wait(t.Context()); err != nil && !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
}
