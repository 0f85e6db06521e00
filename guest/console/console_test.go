package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/console"
	"kata-runtime/guest/protocol"
)

// streams are the host's connections, made by a test.
type streams struct {
	mu    sync.Mutex
	conns map[protocol.StreamHeader]net.Conn
}

func (s *streams) Claim(header protocol.StreamHeader) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, ok := s.conns[header]
	if !ok {
		return nil, errors.New("not connected")
	}
	delete(s.conns, header)
	return conn, nil
}

// connect makes a stream and returns the host's end.
func (s *streams) connect(t *testing.T, process string, which protocol.Stream) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[protocol.StreamHeader{Process: process, Stream: which}] = theirs
	return ours
}

func newConsole(t *testing.T) (*console.Console, *streams) {
	t.Helper()
	s := &streams{conns: make(map[protocol.StreamHeader]net.Conn)}
	return console.New(slog.New(slog.DiscardHandler), s), s
}

func process(t *testing.T, spec specs.Process) []byte {
	t.Helper()
	encoded, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func shell(t *testing.T, script string) []byte {
	t.Helper()
	return process(t, specs.Process{Args: []string{"sh", "-c", script}})
}

func wantExit(t *testing.T, c *console.Console, name string, code int) {
	t.Helper()
	exit, err := c.Wait(t.Context(), name)
	if err != nil || exit.Code != code {
		t.Errorf("exit code %d, %v, want %d", exit.Code, err, code)
	}
}

func TestEverythingIsRefusedUntilTheHostAllowsIt(t *testing.T) {
	c, _ := newConsole(t)
	request := &protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: shell(t, "exit 3")}
	if err := c.Exec(request); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("exec: %v, want PermissionDenied", err)
	}
	if _, err := c.Wait(t.Context(), "p"); status.Code(err) != codes.NotFound {
		t.Errorf("wait for a process that was refused: %v", err)
	}
	c.Allow()
	if err := c.Exec(request); err != nil {
		t.Fatal(err)
	}
	wantExit(t, c, "p", 3)
	if err := c.Exec(request); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same name again: %v", err)
	}
}

func TestStreams(t *testing.T) {
	c, s := newConsole(t)
	c.Allow()
	stdin, stdout, stderr := s.connect(t, "p", protocol.Stdin), s.connect(t, "p", protocol.Stdout), s.connect(t, "p", protocol.Stderr)
	err := c.Exec(&protocol.ExecProcessRequest{
		ProcessId: "p", ProcessJson: shell(t, `cat; echo complaint >&2; exit 4`), Stdin: true, Stdout: true, Stderr: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(stdin, "input\n")
		stdin.Close()
	}()
	complaint := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(stderr)
		complaint <- string(text)
	}()
	output, err := io.ReadAll(stdout)
	if err != nil || string(output) != "input\n" {
		t.Errorf("output %q, %v", output, err)
	}
	if text := <-complaint; text != "complaint\n" {
		t.Errorf("standard error %q", text)
	}
	wantExit(t, c, "p", 4)
}

func TestTerminal(t *testing.T) {
	c, s := newConsole(t)
	c.Allow()
	stdin, stdout := s.connect(t, "p", protocol.Stdin), s.connect(t, "p", protocol.Stdout)
	spec := specs.Process{
		Args: []string{"sh", "-c", "stty size; read line; stty size; test -t 2 && exit 5"}, Terminal: true, ConsoleSize: &specs.Box{Height: 24, Width: 80},
	}
	err := c.Exec(&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: process(t, spec), Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("24 80\r\n"))
	if _, err := io.ReadFull(stdout, first); err != nil || string(first) != "24 80\r\n" {
		t.Fatalf("first size %q, %v", first, err)
	}
	if err := c.Resize("p", 50, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(stdout)
	if err != nil || !strings.HasSuffix(string(rest), "50 100\r\n") {
		t.Errorf("then %q, %v", rest, err)
	}
	wantExit(t, c, "p", 5)
	if err := c.Resize("p", 1<<16, 1); status.Code(err) != codes.InvalidArgument {
		t.Errorf("resize beyond what a terminal can have: %v", err)
	}
}

func TestSignalReachesTheProcessesThatItStarted(t *testing.T) {
	c, s := newConsole(t)
	c.Allow()
	stdout := s.connect(t, "p", protocol.Stdout)
	err := c.Exec(&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: shell(t, "sleep 1000 & echo ready; wait"), Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal("p", uint32(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	wantExit(t, c, "p", 128+int(unix.SIGKILL))
	if _, err := io.ReadAll(stdout); err != nil { // ends with the last that has it
		t.Error(err)
	}
	if err := c.Signal("p", uint32(unix.SIGKILL)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("signal a process that has ended: %v", err)
	}
}

func TestWhatCannotBeStarted(t *testing.T) {
	c, _ := newConsole(t)
	c.Allow()
	for name, test := range map[string]struct {
		request *protocol.ExecProcessRequest
		want    codes.Code
	}{
		"no name":         {&protocol.ExecProcessRequest{ProcessJson: shell(t, "true")}, codes.InvalidArgument},
		"no program":      {&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: process(t, specs.Process{})}, codes.InvalidArgument},
		"no JSON":         {&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: []byte("{")}, codes.InvalidArgument},
		"missing program": {&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: process(t, specs.Process{Args: []string{"nothing"}})}, codes.NotFound},
		"missing path":    {&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: process(t, specs.Process{Args: []string{"/nothing"}})}, codes.NotFound},
		"terminal without output": {
			&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: process(t, specs.Process{Args: []string{"true"}, Terminal: true})}, codes.InvalidArgument,
		},
	} {
		if err := c.Exec(test.request); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if err := c.Exec(&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: shell(t, "true"), Stdout: true}); err == nil {
		t.Error("a stream that is not connected was taken")
	}
	// None of them has kept the name.
	if err := c.Exec(&protocol.ExecProcessRequest{ProcessId: "p", ProcessJson: shell(t, "true")}); err != nil {
		t.Error(err)
	}
	wantExit(t, c, "p", 0)
}

func TestManyProcesses(t *testing.T) {
	c, s := newConsole(t)
	c.Allow()
	const most = 32
	var inputs []net.Conn
	name := func(i int) string { return string(rune('A'+i/8)) + string(rune('0'+i%8)) }
	for i := range most {
		inputs = append(inputs, s.connect(t, name(i), protocol.Stdin))
		if err := c.Exec(&protocol.ExecProcessRequest{ProcessId: name(i), ProcessJson: shell(t, "read x"), Stdin: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Exec(&protocol.ExecProcessRequest{ProcessId: "more", ProcessJson: shell(t, "true")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v, want ResourceExhausted", err)
	}
	for i, input := range inputs {
		input.Close()
		wantExit(t, c, name(i), 1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Exec(&protocol.ExecProcessRequest{ProcessId: "last", ProcessJson: shell(t, "sleep 1000")}); err != nil {
		t.Error(err)
	}
	if _, err := c.Wait(ctx, "last"); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with a context that has ended: %v", err)
	}
	if err := c.Signal("last", uint32(unix.SIGKILL)); err != nil {
		t.Error(err)
	}
}
