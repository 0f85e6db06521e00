package machine

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/test/lab/internal/wire"
)

// A machine that hangs is ended, and the error says so.
func TestAMachineThatHangs(t *testing.T) {
	dir := t.TempDir()
	program := "#!/bin/sh\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	o := Options{Work: t.TempDir(), Silence: 10 * time.Millisecond}
	err := Run(t.Context(), o, func(wire.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("error %v", err)
	}
}

// A machine that says something is sent something, and need not take it.
func TestNudge(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	path := filepath.Join(t.TempDir(), "messages")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan error, 1)
	go func() {
		accepted <- accept(listener, func(wire.Message) error { return nil })
	}()
	var dialer net.Dialer
	machine, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = machine.SetDeadline(deadline)
	}
	if err := json.NewEncoder(machine).Encode(wire.Message{Ready: "yes"}); err != nil {
		t.Fatal(err)
	}
	// The second one is left unread.
	if raw, err := machine.(*net.UnixConn).SyscallConn(); err != nil {
		t.Error(err)
	} else if err := raw.Read(func(fd uintptr) bool {
		got := make([]byte, 2)
		n, _, err := unix.Recvfrom(int(fd), got, unix.MSG_PEEK)
		return n == len(got) || err != nil && err != unix.EAGAIN
	}); err != nil {
		t.Errorf("no nudge: %v", err)
	}
	machine.Close()
	if err := <-accepted; err != nil {
		t.Errorf("the machine's end: %v", err)
	}
}
