//go:build vm

package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestCallersOfTheCommandLine has what callers do with one container besides
// reading what the commands print.
func TestCallersOfTheCommandLine(t *testing.T) {
	h := harness.New(t)
	id, pidFile := h.ID(), h.File("pid")
	socket, receive := h.ConsoleSocket()
	silently(h, "create", "--pid-file", pidFile, "--pidfd-socket", socket, "-b", h.Bundle(bundle.Spec("/bin/sleep", "100000")), id)
	checkPIDFD(t, receive(), number(t, pidFile))
	h.Must("start", id)

	t.Run("pidfd of an exec", func(t *testing.T) {
		file := h.File("exec.pid")
		socket, receive := h.ConsoleSocket()
		silently(h, "exec", "--detach", "--pid-file", file, "--pidfd-socket", socket, id, "/bin/sleep", "55555")
		pidfd := receive()
		checkPIDFD(t, pidfd, number(t, file))
		if err := unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGTERM, nil, 0); err != nil {
			t.Fatal(err)
		}
		if code := h.Reap(number(t, file)); code != 128+int(unix.SIGTERM) {
			t.Errorf("exit code %d after SIGTERM", code)
		}
	})
	t.Run("nobody takes the pidfd", func(t *testing.T) {
		result := h.Run("exec", "--pidfd-socket", h.File("nobody"), id, "/bin/sleep", "66666")
		wantCode(t, result, 255)
		if !strings.Contains(result.Stderr, "pidfd socket") {
			t.Errorf("standard error %q", result.Stderr)
		}
		if table := h.Must("ps", id); strings.Contains(table, "66666") {
			t.Errorf("the process was left: %s", table)
		}
	})
	t.Run("interrupted command", func(t *testing.T) { // as CRI-O ends a streaming exec
		process := h.File("process.json")
		text := `{"args": ["/bin/sh", "-c", "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 1 & wait $!; done"], "cwd": "/"}`
		if err := os.WriteFile(process, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		command := h.Command("exec", "--process", process, id)
		stdout, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		h.Expect(stdout, "ready\n")
		if err := command.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		h.Expect(stdout, "interrupted\n")
		if code := h.Wait(command); code != 9 {
			t.Errorf("exit code %d after SIGINT", code)
		}
	})
	h.Must("delete", "--force", id)
	h.Reap(number(t, pidFile))
}

// checkPIDFD fails the test unless the file is a pidfd of the process.
func checkPIDFD(t *testing.T, file *os.File, pid int) {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(info), fmt.Sprintf("\nPid:\t%d\n", pid)) {
		t.Errorf("not a pidfd of process %d:\n%s", pid, info)
	}
}
