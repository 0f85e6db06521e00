//go:build vm

package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestExec shares one container: create and start it, run processes in it and
// beside it, freeze it, change its limits, measure it.
func TestExec(t *testing.T) {
	h := harness.New(t)
	configure(h, "agent.kata.debug_console_enabled = true")
	id, pidFile := h.ID(), h.File("pid")
	silently(h, "create", "--pid-file", pidFile, "-b", h.Bundle(bundle.Spec("/bin/sleep", "100000")), id)
	if s := stateOf(h, id); s.Status != "created" {
		t.Errorf("status %q after create", s.Status)
	}
	h.Must("start", id)
	// Process 1 does not end with it, unless it is not yet the program that was
	// started: the rest of the test needs it.
	h.Must("kill", id, "TERM")
	if result := h.Run("start", id); result.Code != 1 || !strings.Contains(result.Stderr, "running") {
		t.Errorf("second start: exit code %d, %q", result.Code, result.Stderr)
	}

	t.Run("attached", func(t *testing.T) {
		result := h.RunInput("input\n", "exec", "-u", "1000:100", "-e", "KEY=value", "--cwd", "/tmp", id,
			"/bin/sh", "-c", `read line; echo "$line $KEY $(id -u):$(id -g) $(pwd)"; echo complaint >&2; exit 6`)
		wantCode(t, result, 6)
		if result.Stdout != "input value 1000:100 /tmp\n" || result.Stderr != "complaint\n" {
			t.Errorf("output %q, %q", result.Stdout, result.Stderr)
		}
	})
	t.Run("what is left in the background", func(t *testing.T) {
		// It goes on when nobody reads it any more, and is not ended by writing.
		const script = `(until test -e /dev/shm/go; do sleep 0.1; done; echo late; echo later; touch /dev/shm/survived) & echo early`
		if got := h.Must("exec", id, "/bin/sh", "-c", script); got != "early\n" {
			t.Errorf("output %q", got)
		}
		h.Must("exec", id, "/bin/sh", "-c", "touch /dev/shm/go; until test -e /dev/shm/survived; do sleep 0.1; done")
	})
	t.Run("missing program", func(t *testing.T) {
		result := h.Run("exec", id, "/bin/nothing")
		wantCode(t, result, 255)
		if !strings.Contains(result.Stderr, "no such file or directory") {
			t.Errorf("standard error %q", result.Stderr)
		}
	})
	t.Run("detached", func(t *testing.T) {
		file := h.File("exec.pid")
		silently(h, "exec", "--detach", "--pid-file", file, id, "/bin/sleep", "77777")
		pid := number(t, file)
		var pids []int
		decode(h, h.Must("ps", "--format", "json", id), &pids)
		if want := []int{number(t, pidFile), pid}; !slices.Equal(pids, want) {
			t.Errorf("ps: pids %v, want %v", pids, want)
		}
		// The program may not have replaced the agent's starter yet.
		if table := h.Must("ps", id); strings.Count(table, "\n") != 3 {
			t.Errorf("ps: %s", table)
		}
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := h.Reap(pid); code != 128+int(unix.SIGTERM) {
			t.Errorf("exit code %d after SIGTERM", code)
		}
	})
	t.Run("killed command", func(t *testing.T) {
		file := h.File("killed.pid")
		command := h.Command("exec", "--pid-file", file, id, "/bin/sh", "-c", "echo ready; exec sleep 88888")
		stdout, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		h.Expect(stdout, "ready\n")
		h.WaitFile(filepath.Dir(file), func() bool { // which may come later than the output
			_, err := os.Stat(file)
			return err == nil
		})
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		h.Wait(command)
		if code := h.Reap(number(t, file)); code != 128+int(unix.SIGKILL) {
			t.Errorf("exit code %d of the process's stand-in", code)
		}
		if table := h.Must("ps", id); strings.Contains(table, "88888") {
			t.Errorf("the process outlives its command: %s", table)
		}
	})
	t.Run("paused", func(t *testing.T) {
		h.Must("pause", id)
		if s := stateOf(h, id); s.Status != "paused" {
			t.Errorf("status %q after pause", s.Status)
		}
		if result := h.Run("exec", id, "/bin/true"); result.Code != 255 {
			t.Errorf("exec in a paused container: exit code %d", result.Code)
		}
		h.Must("resume", id)
		if s := stateOf(h, id); s.Status != "running" {
			t.Errorf("status %q after resume", s.Status)
		}
	})
	t.Run("updated", func(t *testing.T) {
		h.Must("update", "--memory", "67108864", "--pids-limit", "50", id)
		limits := h.Must("exec", id, "/bin/cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max")
		if limits != "67108864\n50\n" {
			t.Errorf("limits in the container: %q", limits)
		}
		// An idle group has no weight; later changes must work nevertheless.
		h.Must("update", "--cpu-share", "512", id)
		h.Must("update", "--cpu-idle", "1", id)
		h.Must("update", "--pids-limit", "60", "--cpu-rt-runtime", "1000", id)
		idle := h.Must("exec", id, "/bin/cat", "/sys/fs/cgroup/cpu.idle", "/sys/fs/cgroup/pids.max")
		h.Must("update", "--cpu-idle", "0", id)
		weight := h.Must("exec", id, "/bin/cat", "/sys/fs/cgroup/cpu.weight")
		if idle != "1\n60\n" || weight != "59\n" {
			t.Errorf("an idle container has cpu.idle, pids.max %q, and afterwards the weight %q", idle, weight)
		}
	})
	t.Run("in the guest itself", func(t *testing.T) { execInGuest(t, h, id) })
	t.Run("metrics", func(t *testing.T) { scrape(t, h, id, func() { h.Must("delete", "--force", id) }) })
	if code := h.Reap(number(t, pidFile)); code != 128+int(unix.SIGKILL) {
		t.Errorf("exit code %d after delete --force", code)
	}
}

// silently runs a command whose process keeps its output open.
func silently(h *harness.Host, args ...string) {
	h.T.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		h.T.Fatal(err)
	}
	defer null.Close()
	command := h.Command(args...)
	command.Stdout, command.Stderr = null, null
	if result := h.Finish(command); result.Code != 0 {
		h.T.Fatalf("%s: exit code %d", command, result.Code)
	}
}

func number(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}
