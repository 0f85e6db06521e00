//go:build vm

package vm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata-runtime/test/harness"
)

// execInGuest runs programs in the guest of a container's pod itself: by a way that
// each guest has, whether its image has a shell or not.
func execInGuest(t *testing.T, h *harness.Host, id string) {
	var pid string
	for line := range strings.Lines(h.Must("ps", id)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/bin/sleep" {
			pid = fields[1]
		}
	}
	busybox := fmt.Sprintf("/proc/%s/root/bin/busybox", pid) // of the container, run as the guest's
	result := h.RunInput("input\n", "exec", "--guest", "-e", "KEY=value", id,
		busybox, "sh", "-c", `read line; echo "$line $KEY $(`+busybox+` id -u)"; echo complaint >&2; exit 6`)
	wantCode(t, result, 6)
	if result.Stdout != "input value 0\n" || result.Stderr != "complaint\n" {
		t.Errorf("output %q, %q", result.Stdout, result.Stderr)
	}
	// It is in no container: it sees the guest's processes, and its files.
	if table := h.Must("exec", "--guest", id, busybox, "ps"); !strings.Contains(table, "kata-agent") || !strings.Contains(table, "sleep") {
		t.Errorf("processes: %s", table)
	}
	if mounts := h.Must("exec", "--guest", id, busybox, "cat", "/proc/self/mounts"); !strings.Contains(mounts, "/run/kata/shared") {
		t.Errorf("mounts: %s", mounts)
	}
	wantCode(t, h.Run("exec", "--guest", id, busybox, "sh", "-c", "kill -9 $$"), 128+int(syscall.SIGKILL))

	result = h.Run("exec", "--guest", id)
	wantCode(t, result, 255)
	if !strings.Contains(result.Stderr, "make image BUSYBOX=/bin/busybox") {
		t.Errorf("without a shell in the image: %q", result.Stderr)
	}

	command := h.Command("exec", "--guest", id, busybox, "sh")
	terminal := h.StartOnTerminal(command, 40, 90)
	// Of one process group, in the foreground before there is output: a shell that is about
	// to start the next program of its own takes the signal and goes on to wait.
	if _, err := io.WriteString(terminal, busybox+" sh -c '"+busybox+" stty size; exec "+busybox+" sleep 7777'\n"); err != nil {
		t.Fatal(err)
	}
	h.Expect(terminal, "40 90")
	if _, err := io.WriteString(terminal, "\x03exit 5\n"); err != nil { // the guest's terminal makes a signal of it
		t.Fatal(err)
	}
	h.ReadAll(terminal)
	if code := h.Wait(command); code != 5 {
		t.Errorf("exit code %d of a shell with a terminal", code)
	}

	killed := h.Command("exec", "--guest", id, busybox, "sh", "-c", "echo ready; exec "+busybox+" sleep 8888")
	stdout, err := killed.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	h.Expect(stdout, "ready\n")
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.Wait(killed)
	// The process ends a moment after the command that has it.
	const wait = "while " + `$0 ps | $0 grep -q "[s]leep 8888"; do $0 sleep 0.1; done`
	h.Must("exec", "--guest", id, busybox, "sh", "-c", wait, busybox)
}

// scrape reads the metrics of all pods as Prometheus does, while one of them runs
// and once it is gone.
func scrape(t *testing.T, h *harness.Host, id string, remove func()) {
	command := h.Command("metrics", "--listen", "127.0.0.1:0")
	command.Env = append(command.Environ(), "KATA_SHIM_ROOT="+h.File("shim"))
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(strings.TrimPrefix(line, "serving "))
	get := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("status %d, %v: %s", response.StatusCode, err, text)
		}
		return string(text)
	}
	up := fmt.Sprintf("\nkata_up{sandbox_id=%q} 1\n", id)
	if text := get(); !strings.Contains(text, up) || !strings.Contains(text, "\nkata_pods 1\n") {
		t.Errorf("metrics: %s", text)
	}
	remove()
	if text := get(); strings.Contains(text, "kata_up") || !strings.Contains(text, "\nkata_pods 0\n") {
		t.Errorf("metrics without a pod: %s", text)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := h.Wait(command); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}
