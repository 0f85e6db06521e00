//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/leak"
)

const ready = "echo ready; exec sleep 100000"

// process finds the one process of the test whose command line has the text.
func process(h *harness.Host, text string) leak.Process {
	h.T.Helper()
	var found []leak.Process
	for _, p := range h.Processes() {
		if strings.Contains(p.Command, text) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		h.T.Fatalf("processes with %q: %v; want one", text, found)
	}
	return found[0]
}

// supervisor is the parent of the machine's process.
func supervisor(h *harness.Host) int { return process(h, "qemu-system").PPID }

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// waitAll waits for the end of every process that the runtime has started.
func waitAll(h *harness.Host) {
	h.T.Helper()
	for _, p := range h.Processes() {
		h.WaitExit(p.PID)
	}
}

func TestCommandKilledBeforeTheContainerStarts(t *testing.T) {
	for _, flags := range [][]string{nil, {"--detach"}} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			h := harness.New(t)
			// A QEMU that tells when it is started, and takes no time off it. A script
			// finds no shell in a jail.
			started := h.File("started")
			wrapper := h.File("qemu")
			script := fmt.Sprintf("#!/bin/sh\n: > %s\nexec qemu-system-x86_64 \"$@\"\n", started)
			if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			configure(h, fmt.Sprintf("hypervisor.qemu.path = %q", wrapper), `hypervisor.qemu.accelerator = "tcg"`, "hypervisor.confine = false")
			arguments := append([]string{"run", "-b", h.Bundle(bundle.Spec("/bin/true"))}, flags...)
			command := h.Command(append(arguments, h.ID())...)
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			h.WaitFile(filepath.Dir(started), func() bool {
				_, err := os.Stat(started)
				return err == nil
			})
			kill(t, command.Process.Pid)
			if code := h.Wait(command); code != 128+9 {
				t.Errorf("exit code %d: it had ended before", code)
			}
			waitAll(h)
			if listed := h.Must("list", "-q"); listed != "" {
				t.Errorf("left in the list: %s", listed)
			}
		})
	}
}

func TestAttachedCommandKilled(t *testing.T) {
	h := harness.New(t)
	command, _ := attach(h)
	kill(t, command.Process.Pid)
	h.Wait(command)
	waitAll(h)
	if listed := h.Must("list", "-q"); listed != "" {
		t.Errorf("left in the list: %s", listed)
	}
}

// attach runs a container that sleeps, and returns when it does.
func attach(h *harness.Host) (command *exec.Cmd, id string) {
	h.T.Helper()
	id = h.ID()
	command = h.Command("run", "-b", h.Bundle(bundle.Spec("/bin/sh", "-c", ready)), id)
	reader, writer, err := os.Pipe()
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() { reader.Close() })
	command.Stdout, command.Stderr = writer, os.Stderr
	if err := command.Start(); err != nil {
		h.T.Fatal(err)
	}
	writer.Close()
	h.Expect(reader, "ready\n")
	return command, id
}

func TestSupervisorKilled(t *testing.T) {
	h := harness.New(t)
	d := detach(h, bundle.Spec("/bin/sh", "-c", ready))
	h.WaitText(d.output, "ready")
	kill(t, supervisor(h))
	waitAll(h)
	if code := h.Reap(d.pid); code != 128+9 {
		t.Errorf("the stand-in's exit code is %d, want 137", code)
	}
	if s := stateOf(h, d.id); s.Status != "stopped" || s.PID != 0 {
		t.Errorf("status %s, pid %d; want stopped", s.Status, s.PID)
	}
	h.Must("delete", "--force", d.id)
}

func TestMachineKilled(t *testing.T) {
	for _, program := range []string{"qemu-system", harness.FileServerCommand(), "kata-vsock", "kata-reader"} {
		t.Run(program, func(t *testing.T) {
			h := harness.New(t)
			d := detach(h, bundle.Spec("/bin/sh", "-c", ready))
			h.WaitText(d.output, "ready")
			for _, p := range h.Processes() { // virtiofsd is two
				if strings.Contains(p.Command, program) {
					kill(t, p.PID)
				}
			}
			if code := h.Reap(d.pid); code != 128+9 {
				t.Errorf("the stand-in's exit code is %d, want 137", code)
			}
			if s := stateOf(h, d.id); s.Status != "stopped" {
				t.Errorf("status %s, want stopped", s.Status)
			}
			h.Must("delete", d.id)
		})
	}
}

func TestMachineKilledUnderAnAttachedCommand(t *testing.T) {
	h := harness.New(t)
	command, _ := attach(h)
	kill(t, process(h, "qemu-system").PID)
	if code := h.Wait(command); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
}

func TestGuestPanics(t *testing.T) {
	h := harness.New(t)
	spec := bundle.Spec("/bin/sh", "-c", "echo ready; echo c > /proc/sysrq-trigger; sleep 1000")
	spec.Linux.ReadonlyPaths = nil
	spec.Process.NoNewPrivileges = false
	d := detach(h, spec)
	if code := h.Reap(d.pid); code != 128+9 {
		t.Errorf("the stand-in's exit code is %d, want 137", code)
	}
	h.Must("delete", "--force", d.id)
}
