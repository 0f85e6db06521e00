//go:build vm

package accept

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// socketVariable makes the test's program connect there, and print what comes.
const socketVariable = "KATA_TEST_SOCKET"

func TestMain(m *testing.M) {
	path := os.Getenv(socketVariable)
	if path == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		panic(err)
	}
	_, _ = io.Copy(os.Stdout, conn)
}

// TestPeers needs root, to be another user.
func TestPeers(t *testing.T) {
	dir := t.TempDir()
	path, program := filepath.Join(dir, "socket"), filepath.Join(dir, "program")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Dir(dir), dir, path} { // where others may go
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	peers := Peers{listener, slog.New(slog.NewTextHandler(&log, nil))}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := peers.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "welcome")
			conn.Close()
		}
	}()
	for user, want := range map[uint32]string{0: "welcome", 4711: ""} {
		command := exec.CommandContext(t.Context(), program)
		command.Env = append(os.Environ(), socketVariable+"="+path)
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user}}
		if output, err := command.Output(); err != nil || string(output) != want {
			t.Errorf("user %d is told %q, %v", user, output, err)
		}
	}
	listener.Close()
	<-ended
	if !strings.Contains(log.String(), "user=4711") {
		t.Errorf("the log has %s", log.String())
	}
}
