//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/u-root/u-root/pkg/cpio"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// buildHostile compiles the enemy.
func buildHostile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostile")
	if err := program.Build(t.Context(), path, "kata-runtime/test/hostile"); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostileInitrd is a guest image with the program as PID 1.
func hostileInitrd(h *harness.Host, program string) string {
	h.T.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		h.T.Fatal(err)
	}
	return h.Image("hostile.img", cpio.StaticRecord(data, cpio.Info{Name: "init", Mode: 0o100755, FileSize: uint64(len(data))}))
}

// hostileGuest makes the host's commands boot a guest whose agent lies.
func hostileGuest(h *harness.Host, program, kind string, timeout int) {
	h.T.Helper()
	configure(
		h, fmt.Sprintf("hypervisor.qemu.kernel = %q", builtAssets(h.T).kernel),
		fmt.Sprintf("hypervisor.qemu.initrd = %q", hostileInitrd(h, program)),
		fmt.Sprintf("hypervisor.qemu.kernel_params = %q", "hostile="+kind),
		fmt.Sprintf("agent.kata.dial_timeout = %d", timeout),
	)
}

// An agent that was replaced can keep its own machine from working, and
// nothing else: the command ends with one error, and nothing is left.
func TestLyingAgents(t *testing.T) {
	program := buildHostile(t)
	for _, c := range []struct {
		kind    string
		timeout int // seconds
		texts   []string
	}{
		{"garbage", 100, []string{"start agent", "something else than ttrpc"}},
		{"oversized", 100, []string{"start agent", "something else than ttrpc"}},
		{"hangup", 100, []string{"start agent"}},
		{"guess", 30, []string{"start agent"}},
		{"silent", 15, []string{"did not answer"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			h := harness.New(t)
			hostileGuest(h, program, c.kind, c.timeout)
			wantFailure(h, c.texts, "run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
			log, _ := os.ReadFile(h.File("log.json"))
			if strings.Contains(string(log), "the host listens") {
				t.Errorf("a port that no guest should reach: %s", log)
			}
		})
	}
}

// A container that was created by an agent that lies ever after: output that
// never ends, a process that no signal ends, calls that are not answered.
func TestLyingAgentOfARunningContainer(t *testing.T) {
	h := harness.New(t)
	id, command := runHostile(h, buildHostile(t), "streams")
	if table := h.Must("ps", id); strings.Contains(table, "\x1b") || strings.Count(table, "\n") != 2 {
		t.Errorf("what the guest says reaches the terminal: %q", table)
	}
	h.Must("delete", "--force", id)
	if code := h.Wait(command); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
}

// An agent that tells of a container's end, and never ends its output, does not
// hold up who deletes it, nor who waits for it, and its machine ends.
func TestAgentThatKeepsStreamsOpen(t *testing.T) {
	program := buildHostile(t)
	t.Run("delete", func(t *testing.T) {
		h := harness.New(t)
		id, command := runHostile(h, program, "end")
		h.Must("delete", "--force", id)
		if code := h.Wait(command); code != 128+9 {
			t.Errorf("exit code %d, want 137", code)
		}
	})
	t.Run("attached", func(t *testing.T) {
		h := harness.New(t)
		id, command := runHostile(h, program, "end")
		h.Must("kill", id, "KILL")
		if code := h.Wait(command); code != 128+9 {
			t.Errorf("exit code %d, want 137", code)
		}
		if result := h.Run("state", id); result.Code == 0 {
			t.Errorf("it is still there: %s", result.Stdout)
		}
	})
	t.Run("detached", func(t *testing.T) {
		h := harness.New(t)
		hostileGuest(h, program, "end", 100)
		d := detach(h, bundle.Spec("/bin/true"))
		h.WaitText(d.output, "endless output\n")
		machine := process(h, "qemu-system").PID
		h.Must("kill", d.id, "KILL")
		if code := h.Reap(d.pid); code != 128+9 {
			t.Errorf("exit code %d, want 137", code)
		}
		h.WaitExit(machine)
		h.Must("delete", d.id)
	})
}

// runHostile runs a container of an agent that lies, whose output is read as far
// as its first line, and returns the running command.
func runHostile(h *harness.Host, program, kind string) (id string, command *exec.Cmd) {
	h.T.Helper()
	hostileGuest(h, program, kind, 100)
	id = h.ID()
	command = h.Command("run", "-b", h.Bundle(bundle.Spec("/bin/true")), id)
	reader, writer, err := os.Pipe()
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() { reader.Close() })
	command.Stdout = writer
	if err := command.Start(); err != nil {
		h.T.Fatal(err)
	}
	writer.Close()
	h.Expect(reader, "endless output\n") // and then nobody reads any more
	h.WaitFile(filepath.Join(h.Root, id), func() bool { return stateOf(h, id).Status == "running" })
	return id, command
}

// A container with every privilege that a specification can give is root of its
// guest. That must not make it anything on the host.
func TestContainerWithEveryPrivilege(t *testing.T) {
	h := harness.New(t)
	program := buildHostile(t)
	// What only the host has: a file outside of the share, and a bind that is
	// read-only.
	if err := os.WriteFile("/run/secret-of-the-host", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove("/run/secret-of-the-host")
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "marker"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	spec := bundle.Privileged(bundle.Spec("/bin/hostile", "probe"))
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/volume", Type: "bind", Source: volume, Options: []string{"bind", "ro"},
	})
	dir := h.Bundle(spec)
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.WriteFile(filepath.Join(rootfs, "bin/hostile"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/run"), []byte("#!/bin/sh\n/bin/hostile probe\nls /proc/*/root/run/secret-of-the-host 2>/dev/null\nexec sleep 100000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec.Process.Args = []string{"/bin/run"}
	if err := bundle.WriteConfig(dir, spec); err != nil {
		t.Fatal(err)
	}
	id, output := h.ID(), h.File("output")
	file, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	command := h.Command("run", "--detach", "-b", dir, id)
	command.Stdout, command.Stderr = file, file
	result := h.Finish(command)
	if text := h.WaitText(output, "done\n"); result.Code != 0 || text != "done\n" {
		t.Errorf("exit code %d, the container reached:\n%s", result.Code, text)
	}
	if _, err := os.Lstat(filepath.Join(volume, "written")); err == nil {
		t.Error("a read-only volume was written to")
	}
	// The container has put a link to the host's files into its root file
	// system: what callers open there is the container's.
	root := fmt.Sprintf("/proc/%d/root", stateOf(h, id).PID)
	if _, err := os.Lstat(filepath.Join(root, "out")); err != nil {
		t.Errorf("the link is not there: %v", err)
	}
	for _, name := range []string{"out", "run/secret-of-the-host"} {
		if text, err := os.ReadFile(filepath.Join(root, name)); err == nil {
			t.Errorf("%s in the stand-in's root shows the host's file: %q", name, text)
		}
	}
	h.Must("delete", "--force", id)
}
