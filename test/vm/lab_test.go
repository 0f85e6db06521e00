//go:build vm && lab

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

	"kata-runtime/hypervisor/accel"
	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/leak"
)

// The lab's machine has what other test machines lack, and a pod uses it
// without being told to: KVM, and vsock and network interfaces that the host's
// kernel works.
func TestLabHardware(t *testing.T) {
	h := harness.New(t)
	if got := accelerator(t); got != accel.KVM {
		t.Fatalf("the accelerator is %s", got)
	}
	network := newPodNetwork(h, "eth0")
	before := network.describe()
	spec := bundle.Spec("/bin/sh", "-c", "ping -c 1 -w 60 10.80.0.1 > /dev/null && echo reached; "+waitForTerm)
	bundle.Namespace(spec, specs.NetworkNamespace).Path = network.path
	d := detach(h, spec)
	h.WaitText(d.output, "ready")
	if text, err := os.ReadFile(d.output); err != nil || !strings.HasPrefix(string(text), "reached\n") {
		t.Errorf("the container says %q, %v", text, err)
	}
	qemu := process(h, "qemu-system").PID
	open := descriptors(t, qemu)
	for _, file := range []string{"anon_inode:kvm-vm", "/dev/vhost-net", "/dev/vhost-vsock"} {
		if !slices.Contains(open, file) {
			t.Errorf("QEMU has not opened %s: %q", file, open)
		}
	}
	// Not a queue goes through QEMU: each device has its thread of the kernel.
	if workers := vhostWorkers(t, qemu); workers < 2 {
		t.Errorf("%d threads of vhost serve QEMU, want those of the vsock and the interface", workers)
	}
	h.Must("kill", d.id, "TERM")
	h.Reap(d.pid)
	h.Must("delete", d.id)
	network.check(before)
}

// descriptors lists what a process has open.
func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	links, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			open = append(open, target)
		}
	}
	return open
}

// vhostWorkers counts the kernel's threads for a process: since Linux 6.4 they
// are the process's own, before that they are the kernel's, with its id in their
// names, and not to be seen from a PID namespace.
func vhostWorkers(t *testing.T, pid int) int {
	t.Helper()
	count := 0
	tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "comm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		if name, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(name), "vhost-") {
			count++
		}
	}
	all, err := leak.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Command == fmt.Sprintf("[vhost-%d]", pid) {
			count++
		}
	}
	return count
}

// systemctl asks systemd.
func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "systemctl", args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemctl %s: %v: %s", strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output))
}

// systemdHost is a host whose commands let systemd make the control groups.
func systemdHost(t *testing.T) *harness.Host {
	h := harness.New(t)
	h.Flags = append(h.Flags, "--systemd-cgroup")
	return h
}

// scopePath is the control group of a scope, below the hierarchy's root.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(text), "0::"))
}

// A pod's processes are in a scope of systemd's, in the slice that was asked
// for, which has the pod's limits and keeps them, and ends with the pod.
func TestSystemdScope(t *testing.T) {
	h := systemdHost(t)
	spec := bundle.Spec("/bin/sh", "-c", waitForTerm)
	name := h.ID()
	spec.Linux.CgroupsPath = "kata-test.slice:kata:" + name
	memory, quota := int64(64<<20), int64(50000)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota}
	own := groupOf(t, os.Getpid())
	d := detach(h, spec)
	h.WaitText(d.output, "ready")

	scope := "kata-" + name + ".scope"
	group := "/kata.slice/kata-test.slice/" + scope
	check := func(when string) {
		t.Helper()
		for _, pid := range []int{d.pid, process(h, "qemu-system").PID} {
			if got := groupOf(t, pid); got != group {
				t.Errorf("%s: process %d is in %s, want %s", when, pid, got, group)
			}
		}
		for controller, want := range limits(t) {
			if got := groupFile(t, controller, group, want.file); got != want.value+"\n" {
				t.Errorf("%s: %s: %s, want %s", when, want.file, got, want.value)
			}
		}
		if got := systemctl(t, "show", "--property", "ActiveState,Slice", scope); got != "Slice=kata-test.slice\nActiveState=active" {
			t.Errorf("%s: systemd says %q", when, got)
		}
	}
	check("at the start")
	if got := groupOf(t, os.Getpid()); got != own {
		t.Errorf("the caller is in %s, and was in %s", got, own)
	}
	// systemd sets what it knows again.
	systemctl(t, "daemon-reload")
	check("after systemd has read its configuration again")
	if got := h.Must("exec", d.id, "/bin/cat", "/sys/fs/cgroup/memory.max"); got != "67108864\n" {
		t.Errorf("the container's own limit is %q", got)
	}

	h.Must("kill", d.id, "TERM")
	if code := h.Reap(d.pid); code != 5 {
		t.Errorf("exit code %d", code)
	}
	h.Must("delete", d.id)
	noScope(t, scope)
	systemctl(t, "stop", "kata-test.slice", "kata.slice") // slices stay until somebody stops them
}

// noScope fails the test if systemd knows the scope, also as a failed one.
func noScope(t *testing.T, name string) {
	t.Helper()
	if got := systemctl(t, "show", "--property", "LoadState,ActiveState", name); got != "LoadState=not-found\nActiveState=inactive" {
		t.Errorf("%s: systemd says %q", name, got)
	}
}

// Without a path the scope is named after the container.
func TestSystemdScopeWithoutPath(t *testing.T) {
	h := systemdHost(t)
	d := detach(h, bundle.Spec("/bin/sleep", "100000"))
	scope := "kata-" + d.id + ".scope"
	if got, want := groupOf(t, d.pid), "/system.slice/"+scope; got != want {
		t.Errorf("the container's process is in %s, want %s", got, want)
	}
	h.Must("delete", "--force", d.id)
	h.Reap(d.pid)
	noScope(t, scope)
}

// The scope of a pod whose supervisor was killed is removed by the next command.
func TestSystemdScopeOfAKilledSupervisor(t *testing.T) {
	h := systemdHost(t)
	d := detach(h, bundle.Spec("/bin/sleep", "100000"))
	kill(t, supervisor(h))
	h.Reap(d.pid)
	h.Must("delete", "--force", d.id)
	noScope(t, "kata-"+d.id+".scope")
}
