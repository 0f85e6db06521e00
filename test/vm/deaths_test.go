//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestDeaths kills each process of a container at each stage of its life, one
// row after the other and always under the same id: whatever a row left would
// be in the next one's way.
func TestDeaths(t *testing.T) {
	stages := []string{"create", "created", "running", "exec", "paused", "delete"}
	victims := []string{"stand-in", "supervisor", "qemu", "virtiofsd", "vsock", "reader", "agent", "init", "command"}
	h := harness.New(t)
	id := h.ID()
	network := newPodNetwork(h, "eth0", "eth1")
	before := network.describe()
	for _, stage := range stages {
		for _, victim := range victims {
			passed := t.Run(stage+"/"+victim, func(t *testing.T) {
				r := newDeathRow(t, h, id, network)
				r.reach(stage)
				r.kill(victim)
				r.check(victim)
				network.t = t
				network.check(before)
			})
			h.T = t
			if !passed {
				return // the next row would fail for this one's reasons
			}
		}
	}
}

// deathRow is a pod of two containers: a sandbox that can reach its guest's
// kernel, and the container that the row is about.
type deathRow struct {
	h       *harness.Host
	id      string // of the container
	pod     detached
	command *exec.Cmd // the calling command at this stage
	release string    // a FIFO that a hook waits for; empty: no hook
	pid     int       // the container's stand-in; 0 before there is one
	exec    int       // an exec's stand-in, 0 for none
	status  string    // of the container now
}

func newDeathRow(t *testing.T, h *harness.Host, id string, network *podNetwork) *deathRow {
	h.T = t // of this row
	r := &deathRow{h: h, id: id}
	spec := sandbox(bundle.Privileged(bundle.Spec("/bin/sleep", "100000")))
	bundle.Namespace(spec, specs.NetworkNamespace).Path = network.path
	r.pod = detach(h, spec)
	if network.t = t; len(network.qdiscs()) < 2 {
		t.Fatalf("the interfaces are not connected:\n%s", network.describe())
	}
	return r
}

// reach brings the container into the stage.
func (r *deathRow) reach(stage string) {
	r.h.T.Helper()
	if stage == "create" {
		r.beginCreate()
		return
	}
	spec := member(bundle.Spec("/bin/sh", "-c", ready), r.pod, podNamespaces()...)
	if stage == "delete" {
		// Output that nobody takes: deletion waits for it a while.
		spec.Process.Args = []string{"/bin/sh", "-c", "yes"}
	}
	output := r.h.File(r.id + ".out")
	_ = os.Remove(output)
	switch stage {
	case "running":
		r.attach(spec, output)
		return
	case "delete":
		r.createInto(spec, r.pipe())
	default:
		file, err := os.Create(output)
		if err != nil {
			r.h.T.Fatal(err)
		}
		defer file.Close()
		r.createInto(spec, file)
	}
	r.status = "created"
	if stage == "created" {
		return
	}
	r.h.Must("start", r.id)
	r.status = "running"
	switch stage {
	case "exec":
		r.beginExec()
	case "paused":
		r.h.WaitText(output, "ready")
		r.h.Must("pause", r.id)
		r.status = "paused"
	case "delete":
		r.beginDelete()
	}
}

// beginCreate starts a create command that waits in a hook.
func (r *deathRow) beginCreate() {
	spec := member(bundle.Spec("/bin/sh", "-c", ready), r.pod, podNamespaces()...)
	r.release = filepath.Join(r.h.T.TempDir(), "release")
	reached := filepath.Join(r.h.T.TempDir(), "pid")
	if err := unix.Mkfifo(r.release, 0o600); err != nil {
		r.h.T.Fatal(err)
	}
	script := fmt.Sprintf(`sed 's/.*"pid": *\([0-9]*\).*/\1/' | tr -dc 0-9 > %[1]s.tmp; mv %[1]s.tmp %[1]s; read x < %[2]s`, reached, r.release)
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"},
	}}}
	r.command = r.h.Command("create", "-b", r.h.Bundle(spec), r.id)
	if err := r.command.Start(); err != nil {
		r.h.T.Fatal(err)
	}
	r.h.WaitFile(filepath.Dir(reached), func() bool {
		_, err := os.Stat(reached)
		return err == nil
	})
	r.pid = number(r.h.T.(*testing.T), reached)
	r.status = "creating"
}

// attach runs the container with a command that waits for it.
func (r *deathRow) attach(spec *specs.Spec, output string) {
	file, err := os.Create(output)
	if err != nil {
		r.h.T.Fatal(err)
	}
	defer file.Close()
	r.command = r.h.Command("run", "-b", r.h.Bundle(spec), r.id)
	r.command.Stdout, r.command.Stderr = file, file
	if err := r.command.Start(); err != nil {
		r.h.T.Fatal(err)
	}
	r.h.WaitText(output, "ready")
	r.pid = stateOf(r.h, r.id).PID
	r.status = "running"
}

// pipe returns the writing end of a pipe that nobody reads.
func (r *deathRow) pipe() *os.File {
	reader, writer, err := os.Pipe()
	if err != nil {
		r.h.T.Fatal(err)
	}
	r.h.T.Cleanup(func() { reader.Close(); writer.Close() })
	return writer
}

func (r *deathRow) createInto(spec *specs.Spec, output *os.File) {
	command := r.h.Command("create", "-b", r.h.Bundle(spec), r.id)
	command.Stdout, command.Stderr = output, output
	if result := r.h.Finish(command); result.Code != 0 {
		r.h.T.Fatalf("create: exit code %d", result.Code)
	}
	r.pid = stateOf(r.h, r.id).PID
}

func (r *deathRow) beginExec() {
	r.command = r.h.Command("exec", r.id, "/bin/sh", "-c", ready)
	stdout, err := r.command.StdoutPipe()
	if err != nil {
		r.h.T.Fatal(err)
	}
	if err := r.command.Start(); err != nil {
		r.h.T.Fatal(err)
	}
	r.h.Expect(stdout, "ready\n")
	var pids []int
	decode(r.h, r.h.Must("ps", "--format", "json", r.id), &pids)
	if len(pids) != 2 || pids[0] != r.pid {
		r.h.T.Fatalf("stand-ins %v, the container's is %d", pids, r.pid)
	}
	r.exec = pids[1]
}

// beginDelete starts a delete command, which waits for the output, and returns
// when the container has stopped.
func (r *deathRow) beginDelete() {
	r.command = r.h.Command("delete", "--force", r.id)
	if err := r.command.Start(); err != nil {
		r.h.T.Fatal(err)
	}
	r.awaitStopped()
	r.status = "stopped"
}

// awaitStopped waits until the container's end is recorded, or it is gone.
func (r *deathRow) awaitStopped() {
	dir := filepath.Join(r.h.Root, r.id)
	if _, err := os.Stat(dir); err != nil {
		return
	}
	r.h.WaitFile(dir, func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "kata.json"))
		return err != nil || strings.Contains(string(data), `"status":"stopped"`)
	})
}

// kill ends a process with SIGKILL, or as near to it as can be come by.
func (r *deathRow) kill(victim string) {
	r.h.T.Helper()
	switch victim {
	case "stand-in":
		pid := r.pid
		if r.exec != 0 {
			pid = r.exec
		}
		r.killIfThere(pid)
	case "supervisor":
		r.killIfThere(supervisorOf(r.h, r.pod))
	case "qemu", "virtiofsd", "vsock", "reader":
		for _, p := range r.h.Processes() {
			if strings.Contains(p.Command, map[string]string{"qemu": "qemu-system", "virtiofsd": harness.FileServerCommand(), "vsock": "kata-vsock", "reader": "kata-reader"}[victim]) {
				r.killIfThere(p.PID)
			}
		}
	case "agent":
		// The guest's kernel kills all that runs in it but PID 1.
		r.h.Run("exec", r.pod.id, "/bin/sh", "-c", "echo i > /proc/sysrq-trigger")
	case "init":
		// The agent sends it the signal; without one there is nothing to kill.
		result := r.h.Run("kill", r.id, "KILL")
		if gone := slices.Contains([]string{"creating", "stopped"}, r.status); result.Code != 0 && !gone {
			r.h.T.Errorf("kill: %s", result.Stderr)
		}
	case "command":
		if r.command != nil {
			r.killIfThere(r.command.Process.Pid)
		}
	}
}

func (r *deathRow) killIfThere(pid int) {
	r.h.T.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		r.h.T.Fatalf("kill %d: %v", pid, err)
	}
}

// check waits for what follows from a death, compares the states with it, and
// removes the pod.
func (r *deathRow) check(victim string) {
	r.h.T.Helper()
	podDies := slices.Contains([]string{"supervisor", "qemu", "virtiofsd", "vsock", "reader", "agent"}, victim)
	if podDies {
		r.h.WaitExit(r.pod.pid) // the news has reached the stand-ins
		if s := stateOf(r.h, r.pod.id); s.Status != "stopped" || s.PID != 0 {
			r.h.T.Errorf("the sandbox is %s, pid %d", s.Status, s.PID)
		}
	} else if s := stateOf(r.h, r.pod.id); s.Status != "running" {
		r.h.T.Errorf("the sandbox is %s", s.Status)
	}
	containerDies := podDies || victim == "init" || victim == "command" && r.status == "running" && r.exec == 0 ||
		victim == "stand-in" && r.exec == 0
	switch {
	case r.status == "creating":
		r.openHook()
		_ = r.h.Wait(r.command) // done or not: the container is deleted next
	case containerDies:
		r.h.WaitExit(r.pid)
		if !podDies {
			r.awaitStopped() // the supervisor hears of it from the guest
		}
		if result := r.h.Run("state", r.id); result.Code == 0 && !strings.Contains(result.Stdout, `"status": "stopped"`) {
			r.h.T.Errorf("the container's state is %s", result.Stdout)
		}
	case r.status == "stopped":
		// Its deletion is over by now, or has ended with its command.
		if result := r.h.Run("state", r.id); result.Code == 0 && !strings.Contains(result.Stdout, `"status": "stopped"`) {
			r.h.T.Errorf("the container's state is %s", result.Stdout)
		}
	default:
		if s := stateOf(r.h, r.id); s.Status != r.status {
			r.h.T.Errorf("the container is %s, want %s", s.Status, r.status)
		}
	}
	switch {
	case r.exec != 0 && victim == "command":
		r.h.Reap(r.exec) // its parent is gone; unreaped, it would hold up the container's stand-in
	case r.exec != 0:
		r.h.WaitExit(r.exec)
	}
	r.h.Must("delete", "--force", r.id)
	if r.command != nil && r.status != "creating" {
		_ = r.h.Wait(r.command)
	}
	r.h.Must("delete", "--force", r.pod.id)
	if listed := r.h.Must("list", "-q"); listed != "" {
		r.h.T.Errorf("left in the list: %s", listed)
	}
	waitAll(r.h)
}

// openHook lets the hook of a create command go on, if it is still there.
func (r *deathRow) openHook() {
	fd, err := unix.Open(r.release, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return // nobody waits
	}
	_, _ = unix.Write(fd, []byte(strconv.Itoa(r.pid)+"\n"))
	unix.Close(fd)
}
