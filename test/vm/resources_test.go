//go:build vm

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// A machine is as large as its container's limits ask for when it starts, and
// grows with them.
func TestResources(t *testing.T) {
	h := harness.New(t)
	configure(h, "hypervisor.qemu.default_maxvcpus = 4", "hypervisor.qemu.default_memory = 256", "hypervisor.qemu.default_maxmemory = 1024",
		"agent.kata.idle_cache_timeout = 4")
	spec := bundle.Spec("/bin/sleep", "100000")
	limit, quota, period := int64(128<<20), int64(150000), uint64(100000)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Cpus: "0"}
	d := detach(h, spec)

	type size struct {
		cpus, blocks    int // of 128 MiB
		memory, maximum string
		set             string
	}
	check := func(what string, want size) {
		t.Helper()
		got := h.Must("exec", d.id, "/bin/sh", "-c", `
			grep -c ^processor /proc/cpuinfo
			ls -d /sys/devices/system/memory/memory[0-9]* | wc -l
			cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpuset.cpus
			awk '/MemTotal/ {print ($2 / 1024 > `+fmt.Sprint(want.blocks*128/2)+`)}' /proc/meminfo`)
		if text := fmt.Sprintf("%d\n%d\n%s\n%s\n%s\n1\n", want.cpus, want.blocks, want.memory, want.maximum, want.set); got != text {
			t.Errorf("%s: the guest has %q, want %q", what, got, text)
		}
		set := want.set
		if runtime.NumCPU() == 1 {
			set = "0" // the host, as in the lab, has no other one
		}
		if threads := vcpuAffinity(h); len(threads) != want.cpus || slices.ContainsFunc(threads, func(got string) bool { return got != set }) {
			t.Errorf("%s: the vCPUs run on the host's CPUs %q, want %d on %s", what, threads, want.cpus, set)
		}
	}
	check("at the start", size{3, 3, "134217728", "150000 100000", "0"})

	h.Must("update", "--memory", fmt.Sprint(512<<20), "--cpu-quota", "300000", d.id)
	check("after an update", size{4, 6, "536870912", "300000 100000", "0"})

	h.Must("update", "--memory", fmt.Sprint(int64(8)<<30), "--cpuset-cpus", "0-1", d.id)
	check("beyond the maximum", size{4, 8, "8589934592", "300000 100000", "0-1"})
	log, err := os.ReadFile(filepath.Join(h.Root, d.id, "kata.supervisor.log"))
	if err != nil || !strings.Contains(string(log), "more than the machine may have") {
		t.Errorf("the log does not tell: %v, %s", err, log)
	}
	checkReclaim(h, d.id)
	checkIdleCache(h, d.id)
	h.Must("delete", "--force", d.id)
	h.Reap(d.pid)
}

// checkReclaim lets a container use more than 256 MiB for a moment: the host has it
// back soon.
func checkReclaim(h *harness.Host, id string) {
	h.T.Helper()
	vmm := process(h, "qemu-system").PID
	before := residentMiB(h, vmm, "RssShmem")
	h.Must("exec", id, "/bin/sh", "-c", `awk 'BEGIN { s = "x"; for (i = 0; i < 27; i++) s = s s; print length(s) }'`)
	if peak := residentMiB(h, vmm, "VmHWM"); peak < before+256 {
		h.T.Errorf("of at most %d MiB, where there were %d, the container has not used 256", peak, before)
	}
	awaitResident(h, vmm, before)
}

// checkIdleCache lets a container write a file: the host has the memory back that the
// guest keeps its contents in once nothing happens any more.
func checkIdleCache(h *harness.Host, id string) {
	h.T.Helper()
	vmm := process(h, "qemu-system").PID
	before := residentMiB(h, vmm, "RssShmem")
	h.Must("exec", id, "/bin/sh", "-c", "dd if=/dev/zero of=/contents bs=1M count=192 2> /dev/null")
	if now := residentMiB(h, vmm, "RssShmem"); now < before+128 {
		h.T.Errorf("the guest has %d MiB, where there were %d, and so has not kept the contents of 192", now, before)
	}
	awaitResident(h, vmm, before)
}

// awaitResident waits until the guest's memory on the host is again what it was, and a
// quarter at most.
func awaitResident(h *harness.Host, vmm, before int) {
	h.T.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(harness.Patience)
	for {
		now := residentMiB(h, vmm, "RssShmem")
		if now <= before+before/4 {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			h.T.Errorf("the guest's memory on the host is %d MiB, it was %d before a container used more and freed it", now, before)
			return
		}
	}
}

// residentMiB is a field of a process's status, in MiB.
func residentMiB(h *harness.Host, pid int, field string) int {
	h.T.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		h.T.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\n"+field+":")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		h.T.Fatalf("%s of process %d: %v", field, pid, err)
	}
	return kib >> 10
}

// vcpuAffinity lists the host's CPUs that each vCPU may run on.
func vcpuAffinity(h *harness.Host) []string {
	h.T.Helper()
	var sets []string
	for _, p := range h.Processes() {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.PID))
		for _, task := range tasks {
			name, _ := os.ReadFile(filepath.Join(task, "comm"))
			if !strings.HasPrefix(string(name), "CPU ") {
				continue
			}
			status, err := os.ReadFile(filepath.Join(task, "status"))
			if err != nil {
				h.T.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(status), "\nCpus_allowed_list:")
			set, _, _ := strings.Cut(rest, "\n")
			sets = append(sets, strings.TrimSpace(set))
		}
	}
	return sets
}
