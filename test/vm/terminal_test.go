//go:build vm

package vm

import (
	"strings"
	"testing"

	"github.com/containerd/console"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

func TestTerminal(t *testing.T) {
	h := harness.New(t)
	spec := bundle.Spec("/bin/sh", "-c", `trap 'echo interrupted' INT; trap 'echo "now $(stty size)"' WINCH
		tty; stty size; echo ready; read line; echo "line: $line"; while :; do sleep 1 & wait $!; read -t 1 line && break; done; exit 6`)
	spec.Process.Terminal = true
	id := h.ID()
	command := h.Command("run", "-b", h.Bundle(spec), id)
	terminal := h.StartOnTerminal(command, 33, 111)
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}

	shown := h.Expect(terminal, "ready\r\n")
	if !strings.HasPrefix(shown, "/dev/pts/0\r\n") || !strings.Contains(shown, "\r\n33 111\r\n") {
		t.Errorf("the container shows %q", shown)
	}
	type step struct {
		input, want string
		act         func() error
	}
	for _, s := range []step{
		// The guest's line discipline echoes, and turns Ctrl-C into a signal.
		{input: "typed\n", want: "typed\r\nline: typed\r\n"},
		{input: "\x03", want: "interrupted\r\n"},
		{act: func() error { return terminal.Resize(console.WinSize{Height: 44, Width: 122}) }, want: "now 44 122\r\n"},
	} {
		if s.act != nil {
			if err := s.act(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := terminal.Write([]byte(s.input)); err != nil {
			t.Fatal(err)
		}
		h.Expect(terminal, s.want)
	}
	checkExecOnTerminal(h, id)
	if _, err := terminal.Write([]byte("end\n")); err != nil {
		t.Fatal(err)
	}
	code := h.Wait(command)
	after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if code != 6 {
		t.Errorf("exit code %d, want 6", code)
	}
	if *before != *after {
		t.Errorf("the terminal's mode was not restored: %+v, before %+v", after, before)
	}
}

// checkExecOnTerminal answers a process's first output at once: the command may not
// have been told yet that the process was started.
func checkExecOnTerminal(h *harness.Host, id string) {
	h.T.Helper()
	command := h.Command("exec", "-t", id, "/bin/sh", "-c",
		`trap 'stty size' WINCH; trap 'exit 9' TERM; stty size; echo ready; while :; do sleep 1 & wait $!; done`)
	terminal := h.StartOnTerminal(command, 20, 70)
	if shown := h.Expect(terminal, "ready\r\n"); shown != "20 70\r\nready\r\n" {
		h.T.Errorf("the process shows %q", shown)
	}
	if err := terminal.Resize(console.WinSize{Height: 21, Width: 71}); err != nil {
		h.T.Fatal(err)
	}
	h.Expect(terminal, "21 71\r\n")
	if err := command.Process.Signal(unix.SIGTERM); err != nil {
		h.T.Fatal(err)
	}
	if code := h.Wait(command); code != 9 {
		h.T.Errorf("exit code %d, want 9", code)
	}
}

func TestConsoleSocket(t *testing.T) {
	h := harness.New(t)
	spec := bundle.Spec("/bin/sh", "-c", `stty size; read line; echo "line: $line"; exit 8`)
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 20, Width: 70}
	socket, receive := h.ConsoleSocket()

	d := detach(h, spec, "--console-socket", socket)
	master := receive()
	h.Expect(master, "20 70\r\n")
	if _, err := master.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	h.Expect(master, "line: hello\r\n")
	if rest := h.ReadAll(master); rest != "" {
		t.Errorf("unexpected output %q", rest)
	}
	if code := h.Reap(d.pid); code != 8 {
		t.Errorf("exit code %d, want 8", code)
	}
	h.Must("delete", d.id)
}

func TestTerminalRules(t *testing.T) {
	h := harness.New(t)
	with, without := bundle.Spec("/bin/true"), bundle.Spec("/bin/true")
	with.Process.Terminal = true
	for _, c := range []struct {
		what, text string
		args       []string
	}{
		{"detached terminal without a socket", "console-socket", []string{"run", "-d", "-b", h.Bundle(with)}},
		{"socket without a terminal", "terminal", []string{"run", "-d", "--console-socket", h.File("s"), "-b", h.Bundle(without)}},
	} {
		result := h.Run(append(c.args, h.ID())...)
		if result.Code != 1 || !strings.Contains(result.Stderr, c.text) {
			t.Errorf("%s: exit code %d, %q", c.what, result.Code, result.Stderr)
		}
	}
}
