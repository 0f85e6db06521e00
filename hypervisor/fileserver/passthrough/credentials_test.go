package passthrough

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A fault on guest memory is recovered from further up: the thread goes on.
func TestCredentialsAfterAPanic(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root acts as others")
	}
	// Whatever happens to this test's thread, it ends with it.
	runtime.LockOSThread()
	var c credentials
	if err := c.read(); err != nil {
		t.Fatal(err)
	}
	fault := errors.New("a fault")
	for name, call := range map[string]func(f func() error) error{
		"as":           func(f func() error) error { return c.as(12345, 12346, f) },
		"withoutSetID": func(f func() error) error { return c.withoutSetID(12347, f) },
	} {
		func() {
			defer func() {
				if got := recover(); got != fault { //nolint:errorlint // it is what was thrown
					t.Errorf("%s: %v", name, got)
				}
			}()
			_ = call(func() error {
				if setFSGID(ask) == c.gid {
					t.Errorf("%s: the group is still %d", name, c.gid)
				}
				panic(fault)
			})
		}()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var has [2]unix.CapUserData
		if err := unix.Capget(&header, &has[0]); err != nil {
			t.Fatal(err)
		}
		if uid, gid := setFSUID(ask), setFSGID(ask); uid != c.uid || gid != c.gid || has != c.all {
			t.Errorf("%s: afterwards the thread is user %d of group %d and may %x", name, uid, gid, has)
		}
	}
}
