package bootstrap

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func setBacklog(t *testing.T, raw syscall.RawConn, n int) {
	t.Helper()
	var err error
	if controlErr := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), n) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
}
