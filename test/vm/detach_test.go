//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/accel"
	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// state is what `kata-runtime state` prints, field for field.
type state struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations"`
	Owner       string            `json:"owner"`
}

func stateOf(h *harness.Host, id string) state {
	h.T.Helper()
	var s state
	decode(h, h.Must("state", id), &s)
	return s
}

func decode(h *harness.Host, text string, into any) {
	h.T.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		h.T.Fatalf("%v in %q", err, text)
	}
}

// detached is a container that a test has started with --detach.
type detached struct {
	id, bundle, output string
	pid                int
}

// detach runs a container in the background, with its output in a file.
func detach(h *harness.Host, spec *specs.Spec, flags ...string) detached {
	h.T.Helper()
	return detachBundle(h, h.Bundle(spec), flags...)
}

// detachBundle is detach for a bundle that was made before.
func detachBundle(h *harness.Host, bundle string, flags ...string) detached {
	h.T.Helper()
	d := detached{id: h.ID(), bundle: bundle}
	d.output = h.File(d.id + ".out")
	output, err := os.Create(d.output)
	if err != nil {
		h.T.Fatal(err)
	}
	defer output.Close()
	pidFile := h.File(d.id + ".pid")
	arguments := append([]string{"run", "--detach", "--pid-file", pidFile, "-b", d.bundle}, flags...)
	command := h.Command(append(arguments, d.id)...)
	command.Stdout, command.Stderr = output, output
	if result := h.Finish(command); result.Code != 0 {
		text, _ := os.ReadFile(d.output)
		h.T.Fatalf("%s: exit code %d: %s", command, result.Code, text)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		h.T.Fatal(err)
	}
	if d.pid, err = strconv.Atoi(string(text)); err != nil {
		h.T.Fatalf("pid file: %v", err)
	}
	return d
}

const waitForTerm = `trap 'exit 5' TERM; echo ready; while :; do sleep 1000 & wait $!; done`

func TestDetachedLife(t *testing.T) {
	h := harness.New(t)
	spec := bundle.Spec("/bin/sh", "-c", waitForTerm)
	spec.Annotations = map[string]string{"org.example.key": "value"}
	before := time.Now().Add(-time.Second)
	d := detach(h, spec)
	// Other programs share the state directory.
	foreign := filepath.Join(h.Root, "other-runtime")
	if err := os.MkdirAll(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	h.WaitText(d.output, "ready")

	running := stateOf(h, d.id)
	if running.Created.Before(before) || running.Created.After(time.Now()) {
		t.Errorf("created %v", running.Created)
	}
	want := state{
		Version: "1.0.2", ID: d.id, PID: d.pid, Status: "running", Bundle: d.bundle,
		Rootfs: filepath.Join(d.bundle, "rootfs"), Created: running.Created,
		Annotations: spec.Annotations, Owner: "root",
	}
	running.Version = want.Version // the version of the state, not of the bundle
	if diff := cmp.Diff(want, running); diff != "" {
		t.Errorf("state (- want, + got):\n%s", diff)
	}
	var listed []state
	decode(h, h.Must("list", "--format", "json"), &listed)
	if len(listed) != 1 || listed[0].ID != d.id || listed[0].PID != d.pid || listed[0].Status != "running" {
		t.Errorf("list: %+v", listed)
	}
	if ids := h.Must("list", "-q"); ids != d.id+"\n" {
		t.Errorf("list -q: %q", ids)
	}
	if table := h.Must("list"); !strings.Contains(table, d.id) || strings.Contains(table, "other-runtime") {
		t.Errorf("list: %s", table)
	}

	for _, c := range []struct {
		what string
		args []string
		text string
	}{
		{"run with a taken id", []string{"run", "-b", d.bundle, d.id}, "exists"},
		{"delete of a running container", []string{"delete", d.id}, "running"},
		{"kill with no such signal", []string{"kill", d.id, "SIGNONE"}, "SIGNONE"},
	} {
		if result := h.Run(c.args...); result.Code != 1 || !strings.Contains(result.Stderr, c.text) {
			t.Errorf("%s: exit code %d, %q", c.what, result.Code, result.Stderr)
		}
	}

	h.Must("kill", d.id, "") // TERM by default, and where a caller has nothing to say
	if code := h.Reap(d.pid); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	if s := stateOf(h, d.id); s.Status != "stopped" || s.PID != 0 {
		t.Errorf("after the end: status %s, pid %d", s.Status, s.PID)
	}
	if result := h.Run("kill", d.id, "KILL"); result.Code != 1 || !strings.Contains(result.Stderr, "container not running") {
		t.Errorf("kill of a stopped container: exit code %d, %q", result.Code, result.Stderr)
	}
	h.Must("delete", d.id)
	for _, command := range []string{"state", "kill", "delete"} {
		if result := h.Run(command, d.id); result.Code != 1 || !strings.Contains(result.Stderr, "does not exist") {
			t.Errorf("%s of a deleted container: exit code %d, %q", command, result.Code, result.Stderr)
		}
	}
	h.Must("delete", "--force", d.id)
	if err := os.Remove(foreign); err != nil {
		t.Errorf("another program's directory: %v", err)
	}
}

// The rules for the process in the pid file: callers look at it, enter its
// namespaces, signal it and wait for it.
func TestStandIn(t *testing.T) {
	h := harness.New(t)
	spec := bundle.Spec("/bin/sh", "-c", waitForTerm)
	spec.Linux.CgroupsPath = "/kata-test/" + h.ID()
	limit, quota := int64(64<<20), int64(50000)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota}
	t.Cleanup(func() { removeCgroups(t, "kata-test") })
	d := detach(h, spec)
	h.WaitText(d.output, "ready")
	proc := filepath.Join("/proc", strconv.Itoa(d.pid))

	if sid, err := unix.Getsid(d.pid); err != nil || sid != d.pid {
		t.Errorf("its session is %d (%v), want its own", sid, err)
	}
	if cgroups, err := os.ReadFile(filepath.Join(proc, "cgroup")); err != nil || !strings.Contains(string(cgroups), spec.Linux.CgroupsPath) {
		t.Errorf("its cgroups are %s (%v), want %s", cgroups, err, spec.Linux.CgroupsPath)
	}
	// The pod's processes are there too, with limits that leave room for them.
	qemu := process(h, "qemu-system").PID
	for controller, want := range limits(t) {
		if pids := strings.Fields(groupFile(t, controller, spec.Linux.CgroupsPath, "cgroup.procs")); !slices.Contains(pids, strconv.Itoa(qemu)) {
			t.Errorf("processes of the group: %v, QEMU is %d", pids, qemu)
		}
		if got := groupFile(t, controller, spec.Linux.CgroupsPath, want.file); got != want.value+"\n" {
			t.Errorf("%s: %s: %s, want %s", controller, want.file, got, want.value)
		}
	}
	for _, kind := range []string{"mnt", "net", "pid", "ipc", "uts"} {
		theirs, err := os.Readlink(filepath.Join(proc, "ns", kind))
		if err != nil {
			t.Fatal(err)
		}
		if ours, _ := os.Readlink("/proc/self/ns/" + kind); theirs == ours {
			t.Errorf("its %s namespace is the caller's", kind)
		}
	}
	// Paths in its mount namespace are the container's.
	inside := []string{"-t", strconv.Itoa(d.pid), "--mount", "/bin/busybox", "sh", "-c", "cat /etc/group; ls -d /proc/1 /work /home"}
	output, _ := exec.Command("nsenter", inside...).CombinedOutput() // ls complains of what is not there
	if !strings.Contains(string(output), "extra:x:2000:user") || !strings.Contains(string(output), "/proc/1\n") {
		t.Errorf("its mount namespace shows %q", output)
	}
	if err := os.WriteFile(filepath.Join(proc, "root/tmp/copied"), []byte("in"), 0o644); err != nil {
		t.Error(err)
	} else if _, err := os.Stat(filepath.Join(d.bundle, "rootfs/tmp/copied")); err != nil {
		t.Errorf("a file written below /proc/PID/root: %v", err)
	}

	// A signal to it is one to the container's process.
	if err := unix.Kill(d.pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := h.Reap(d.pid); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	h.Must("delete", d.id)
}

// limit is what a file of a control group says.
type limit struct{ file, value string }

// limits are those of TestStandIn's pod, by controller: the container's, with
// what the VM needs besides.
func limits(t *testing.T) map[string]limit {
	t.Helper()
	memory := strconv.Itoa((2048 + 64 + 512 + overhead(t)) << 20)
	if unified() {
		return map[string]limit{"memory": {"memory.max", memory}, "cpu": {"cpu.max", "150000 100000"}}
	}
	return map[string]limit{"memory": {"memory.limit_in_bytes", memory}, "cpu": {"cpu.cfs_quota_us", "150000"}}
}

// overhead is how much of QEMU's memory is for its emulation, in MiB: none where
// KVM runs the guest.
func overhead(t *testing.T) int {
	t.Helper()
	if accelerator(t) == accel.KVM {
		return 0
	}
	return 256
}

// accelerator is what the runtime chooses on this machine.
func accelerator(t *testing.T) string {
	t.Helper()
	choice, err := accel.Select(t.Context(), accel.Auto)
	if err != nil {
		t.Fatal(err)
	}
	return choice.Name
}

// unified tells whether the host has control groups of version 2 alone.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// groupFile reads a file of a control group, in the controller's hierarchy.
func groupFile(t *testing.T, controller, group, name string) string {
	t.Helper()
	hierarchy := filepath.Join("/sys/fs/cgroup", controller)
	if unified() {
		hierarchy = "/sys/fs/cgroup"
	}
	data, err := os.ReadFile(filepath.Join(hierarchy, group, name))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func TestStandInsDeathIsTheContainers(t *testing.T) {
	h := harness.New(t)
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	d := detach(h, bundle.Spec("/bin/sh", "-c", waitForTerm))
	h.WaitText(d.output, "ready")
	if err := unix.Kill(d.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := h.Reap(d.pid); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
	// Callers go by the pid: the container is dead or dies now.
	if s := stateOf(h, d.id); s.Status != "stopped" || s.PID != 0 {
		t.Errorf("status %s, pid %d", s.Status, s.PID)
	}
	h.Must("delete", d.id)
}

func removeCgroups(t *testing.T, name string) {
	t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(dirs, "/sys/fs/cgroup/"+name) {
		_ = os.Remove(dir) // a parent that the runtime made and may keep
	}
}

func TestTwoRunsOfOneID(t *testing.T) {
	h := harness.New(t)
	id := h.ID()
	dir := h.Bundle(bundle.Spec("/bin/true"))
	codes := make(chan string, 2)
	for range 2 {
		command := h.Command("run", "-b", dir, id)
		stderr, err := command.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			text := h.ReadAll(stderr)
			if err := command.Wait(); err != nil {
				codes <- fmt.Sprintf("%v: %s", err, text)
				return
			}
			codes <- "done"
		}()
	}
	first, second := <-codes, <-codes
	if first == second || !strings.Contains(first+second, "exists") || !strings.Contains(first+second, "done") {
		t.Errorf("one has to run and one to be refused: %q, %q", first, second)
	}
}
