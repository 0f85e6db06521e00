//go:build vm

package vm

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// blockedCreation is a create command in the midst of a hook.
type blockedCreation struct {
	id, bundle, fifo string
	command          *exec.Cmd
	output           string // path of what it says
	log              *hookLog
}

// blockCreation begins to create a member of a pod whose createRuntime hook
// notes the stand-in's control groups and then waits.
func blockCreation(h *harness.Host, pod detached, group string) *blockedCreation {
	h.T.Helper()
	b := &blockedCreation{id: h.ID(), log: &hookLog{h: h, dir: h.File("hooks-" + h.ID())}}
	if err := os.Mkdir(b.log.dir, 0o755); err != nil {
		h.T.Fatal(err)
	}
	b.fifo = filepath.Join(b.log.dir, "fifo")
	if err := unix.Mkfifo(b.fifo, 0o600); err != nil {
		h.T.Fatal(err)
	}
	spec := member(bundle.Spec("/bin/true"), pod, podNamespaces()...)
	spec.Linux.CgroupsPath = group + "/" + b.id
	spec.Hooks = &specs.Hooks{
		CreateRuntime: []specs.Hook{b.log.hook("createRuntime", `
			pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/' createRuntime.state)
			cat /proc/$pid/cgroup > cgroup
			cat fifo`)},
		Poststop: []specs.Hook{b.log.hook("poststop", "")},
	}
	b.bundle = h.Bundle(spec)
	b.command = h.Command("create", "-b", b.bundle, b.id)
	output, err := os.Create(h.File(b.id + ".out")) // a pipe would be open as long as the container
	if err != nil {
		h.T.Fatal(err)
	}
	defer output.Close()
	b.output, b.command.Stdout, b.command.Stderr = output.Name(), output, output
	if err := b.command.Start(); err != nil {
		h.T.Fatal(err)
	}
	return b
}

// awaitHook waits until the hook waits. Closing what it returns lets it go on.
func (b *blockedCreation) awaitHook() *os.File {
	b.log.h.T.Helper()
	writer, err := os.OpenFile(b.fifo, os.O_WRONLY, 0) // waits for the hook to read
	if err != nil {
		b.log.h.T.Fatal(err)
	}
	return writer
}

// wait waits for the command's end.
func (b *blockedCreation) wait() (code int, output string) {
	b.log.h.T.Helper()
	code = b.log.h.Wait(b.command)
	text, err := os.ReadFile(b.output)
	if err != nil {
		b.log.h.T.Error(err)
	}
	return code, string(text)
}

// Before a container's hooks run, its id is its creator's, whoever else wants
// it, and its stand-in is where callers look for it.
func TestReservation(t *testing.T) {
	h := harness.New(t)
	pod := detach(h, sandbox(bundle.Spec("/bin/sleep", "100000")))
	group := "/kata-test-" + h.ID()
	t.Cleanup(func() { removeCgroups(t, group[1:]) })
	gone := func(id string) {
		t.Helper()
		if result := h.Run("state", id); result.Code != 1 || !strings.Contains(result.Stderr, "does not exist") {
			t.Errorf("state: exit code %d, %q", result.Code, result.Stderr)
		}
	}

	refused := func(text, dir, id string) {
		t.Helper()
		if result := h.Run("create", "-b", dir, id); result.Code != 1 || !strings.Contains(result.Stderr, text) {
			t.Errorf("create: exit code %d, %q", result.Code, result.Stderr)
		}
	}

	t.Run("a second create", func(t *testing.T) {
		b := blockCreation(h, pod, group)
		release := b.awaitHook()
		if s := stateOf(h, b.id); s.Status != "creating" || s.PID == 0 || s.Bundle != b.bundle {
			t.Errorf("state during the hook: %+v", s)
		}
		if cgroups := b.log.read("cgroup"); !strings.Contains(cgroups, group+"/"+b.id) {
			t.Errorf("the stand-in's control groups during the hook: %s", cgroups)
		}
		refused("container with given ID already exists", b.bundle, b.id)
		release.Close()
		if code, text := b.wait(); code != 0 {
			t.Errorf("the first create: exit code %d, %q", code, text)
		}
		b.log.wantOrder("createRuntime")
		refused("container with given ID already exists", b.bundle, b.id)
		b.log.wantOrder("createRuntime")
		h.Must("delete", "--force", b.id)
		b.log.wantOrder("createRuntime", "poststop")
		gone(b.id)
	})
	t.Run("deleted meanwhile", func(t *testing.T) {
		b := blockCreation(h, pod, group)
		defer b.awaitHook().Close()
		h.Must("delete", "--force", b.id)
		gone(b.id)
		if code, text := b.wait(); code != 1 || !strings.Contains(text, "deleted") {
			t.Errorf("exit code %d, %q", code, text)
		}
		b.log.wantOrder("createRuntime", "poststop")
	})
	t.Run("the command is killed", func(t *testing.T) {
		b := blockCreation(h, pod, group)
		defer b.awaitHook().Close()
		dir := filepath.Join(h.Root, b.id)
		if err := b.command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		h.WaitFile(h.Root, func() bool {
			_, err := os.Stat(dir)
			return errors.Is(err, os.ErrNotExist)
		})
		h.Wait(b.command)
		gone(b.id)
		b.log.wantOrder("createRuntime") // who would run poststop?
		again := member(bundle.Spec("/bin/echo", "again"), pod, podNamespaces()...)
		if got := h.Must("run", "-b", h.Bundle(again), b.id); got != "again\n" {
			t.Errorf("a container of the same name says %q", got)
		}
	})
	t.Run("the hook fails", func(*testing.T) {
		spec := member(bundle.Spec("/bin/true"), pod, podNamespaces()...)
		spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		id := h.ID()
		refused("createRuntime hook #0 (/bin/false)", h.Bundle(spec), id)
		gone(id)
	})
	if got := h.Must("exec", pod.id, "/bin/echo", "alive"); got != "alive\n" {
		t.Errorf("the pod says %q", got)
	}
	h.Must("kill", pod.id, "KILL")
	h.Reap(pod.pid)
	h.Must("delete", pod.id)
}
