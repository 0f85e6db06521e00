package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Result is what a command left its caller.
type Result struct {
	Stdout, Stderr string
	// Code is the exit code; 128+N for a command that signal N ended.
	Code int
}

// Command prepares a command of the runtime with the test's state directory. The
// caller may set streams and starts it. It is killed when the test is over.
func (h *Host) Command(args ...string) *exec.Cmd {
	h.T.Helper()
	ctx, cancel := context.WithTimeout(h.T.Context(), cmp.Or(h.Patience, Patience))
	h.T.Cleanup(cancel)
	all := append([]string{"--root", h.Root}, h.Flags...)
	program := h.Program
	if program == "" {
		program = filepath.Join(Repository(h.T), "bin", "kata-runtime")
	}
	command := exec.CommandContext(ctx, program, append(all, args...)...)
	command.Env = append(os.Environ(), "TMPDIR="+h.Temp)
	// A daemon that keeps the caller's descriptors makes every caller hang
	// that reads to the end. This is how long after its own end a command's
	// output may stay open.
	command.WaitDelay = 10 * time.Second
	return command
}

// Run runs a command to its end, with nothing on its standard input.
func (h *Host) Run(args ...string) Result {
	h.T.Helper()
	return h.RunInput("", args...)
}

// RunInput runs a command to its end, with input on its standard input.
func (h *Host) RunInput(input string, args ...string) Result {
	h.T.Helper()
	command := h.Command(args...)
	command.Stdin = strings.NewReader(input)
	return h.Finish(command)
}

// Finish runs a prepared command to its end and captures what output the
// caller has not directed elsewhere.
func (h *Host) Finish(command *exec.Cmd) Result {
	h.T.Helper()
	var stdout, stderr bytes.Buffer
	if command.Stdout == nil {
		command.Stdout = &stdout
	}
	if command.Stderr == nil {
		command.Stderr = &stderr
	}
	err := command.Run()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	result.Code = h.exitCode(command, err)
	return result
}

// Wait waits for a command that the caller has started and returns its exit
// code.
func (h *Host) Wait(command *exec.Cmd) int {
	h.T.Helper()
	return h.exitCode(command, command.Wait())
}

func (h *Host) exitCode(command *exec.Cmd, err error) int {
	h.T.Helper()
	if errors.Is(err, exec.ErrWaitDelay) {
		h.T.Errorf("%s: its output is still open after its end: some process kept it", command)
	} else if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		h.T.Fatalf("%s: %v", command, err)
	}
	status := command.ProcessState
	if code := status.ExitCode(); code >= 0 {
		return code
	}
	if signal, ok := signalOf(status); ok {
		return 128 + signal
	}
	h.T.Fatalf("%s: %s", command, status)
	return -1
}

// Must runs a command that has to succeed without a word on standard error,
// where callers read JSON, and returns its standard output.
func (h *Host) Must(args ...string) string {
	h.T.Helper()
	result := h.Run(args...)
	if result.Code != 0 || result.Stderr != "" {
		h.T.Fatalf("kata-runtime %s: exit code %d, standard error %q", strings.Join(args, " "), result.Code, result.Stderr)
	}
	return result.Stdout
}
