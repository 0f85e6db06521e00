//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// poolStatus is what factory status --json says, as far as tests look at it.
type poolStatus struct {
	Machines []struct {
		Name, For, State, Misfit string
		PID                      int
	}
	Counters map[string]struct {
		Hits, Prepared, Failures int
		Misses, Discarded        map[string]int
	}
}

func statusOfPool(h *harness.Host) (status poolStatus) {
	h.T.Helper()
	if err := json.Unmarshal([]byte(h.Must("factory", "status", "--json")), &status); err != nil {
		h.T.Fatal(err)
	}
	return status
}

// fillPool waits until the pool is full, of machines that were begun by themselves or
// are now.
func fillPool(h *harness.Host) (supervisor int) {
	h.T.Helper()
	h.Must("factory", "init")
	status := statusOfPool(h)
	if len(status.Machines) != 1 || status.Machines[0].State != "ready" || status.Machines[0].Misfit != "" {
		h.T.Fatalf("the pool has %+v", status)
	}
	return status.Machines[0].PID
}

// wantPool compares what the pool has counted of pods.
func wantPool(h *harness.Host, hits int, misses map[string]int) {
	h.T.Helper()
	counts := statusOfPool(h).Counters["supervisor"]
	if counts.Hits != hits || fmt.Sprint(counts.Misses) != fmt.Sprint(misses) {
		h.T.Errorf("%d pods have taken a machine, and %v started cold; want %d and %v", counts.Hits, counts.Misses, hits, misses)
	}
}

// TestPool takes machines from a pool of one, which fills itself up again, and then in
// each way none.
func TestPool(t *testing.T) {
	h := harness.New(t)
	dir := "/run/kata-pool-" + h.ID()
	settings := []string{"factory.pool_size = 1", "factory.max_load = 0", "factory.min_memory = 0", fmt.Sprintf("factory.dir = %q", dir)}
	configure(h, settings...)
	t.Cleanup(func() { removeCgroups(t, "kata-test") })
	defer func() {
		h.T = t
		h.Must("factory", "destroy")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}()
	run := func(flags ...string) harness.Result {
		t.Helper()
		result := h.Run(append(flags, "run", "-b", h.Bundle(bundle.Spec("/bin/sh", "-c", "echo $(hostname) runs; exit 3")), h.ID())...)
		wantCode(t, result, 3)
		if result.Stdout != "box runs\n" {
			t.Errorf("it says %q", result.Stdout)
		}
		return result
	}
	prepared := fillPool(h)
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", prepared)); err != nil || !strings.Contains(string(status), "\nNoNewPrivs:\t1\n") {
		t.Errorf("it has given up nothing before its guest was there: %v\n%s", err, status)
	}

	t.Run("one pod has all of the machine", func(t *testing.T) {
		h.T = t
		testPooledPod(t, h, prepared)
	})
	h.T = t
	wantPool(h, 1, map[string]int{})

	fillPool(h)
	t.Run("two pods at once never share", func(*testing.T) {
		var starting sync.WaitGroup
		for range 2 {
			starting.Go(func() { run() })
		}
		starting.Wait()
	})
	counts := statusOfPool(h).Counters["supervisor"]
	if counts.Hits != 2 || counts.Misses["empty"]+counts.Misses["taken"]+counts.Misses["preparing"] != 1 {
		t.Fatalf("%+v", counts)
	}
	misses := counts.Misses

	t.Run("a killed machine is no pod's", func(t *testing.T) {
		supervisor := fillPool(h)
		if err := unix.Kill(supervisor, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.WaitExit(supervisor)
		result := run("--debug")
		if !strings.Contains(result.Stderr, "starts cold") || !strings.Contains(result.Stderr, "reason=died") {
			t.Errorf("it does not say why it starts cold:\n%s", result.Stderr)
		}
		misses["died"]++
		wantPool(h, 2, misses)
	})
	t.Run("nor is that of another configuration", func(t *testing.T) {
		fillPool(h)
		configure(h, append(settings, `hypervisor.kernel_params = "kata.test"`)...)
		result := run("--debug")
		if !strings.Contains(result.Stderr, "reason=configuration") {
			t.Errorf("it does not say why it starts cold:\n%s", result.Stderr)
		}
		misses["configuration"]++
		wantPool(h, 2, misses)
		fillPool(h) // the other one is not there any more
	})
	t.Run("an id that is taken costs no machine", func(t *testing.T) {
		first, b := h.ID(), h.Bundle(bundle.Spec("/bin/true"))
		output, err := os.Create(h.File("output"))
		if err != nil {
			t.Fatal(err)
		}
		defer output.Close()
		command := h.Command("--debug", "create", "-b", b, first)
		command.Stdout, command.Stderr = output, output
		if result := h.Finish(command); result.Code != 0 {
			t.Fatalf("exit code %d", result.Code)
		}
		h.WaitText(output.Name(), "machine from the pool")
		wantPool(h, 3, misses)
		awaitOwnGroup(h)
		supervisor := fillPool(h) // does not wait for the pod's start
		if result := h.Run("create", "-b", b, first); result.Code != 1 || !strings.Contains(result.Stderr, "already exists") {
			t.Errorf("%+v", result)
		}
		if status := statusOfPool(h); len(status.Machines) != 1 || status.Machines[0].PID != supervisor {
			t.Errorf("the pool has %+v, want process %d", status.Machines, supervisor)
		}
		h.Must("delete", "--force", first)
	})
}

// awaitOwnGroup waits until the process of a machine that waits for a pod's start is in a
// control group of its own: who has started it may be in one that ends with its pod.
func awaitOwnGroup(h *harness.Host) {
	h.T.Helper()
	status := statusOfPool(h)
	if len(status.Machines) != 1 {
		h.T.Fatalf("the pool has %+v", status)
	}
	machine := status.Machines[0]
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(harness.Patience); ; <-ticker.C {
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", machine.PID))
		if err != nil || time.Now().After(deadline) {
			h.T.Fatalf("%+v: %v\n%s", machine, err, groups)
		}
		if strings.Contains(string(groups), "kata-machine-"+machine.Name) {
			return
		}
	}
}

// testPooledPod creates a pod with all that was not known when its machine booted.
func testPooledPod(t *testing.T, h *harness.Host, prepared int) {
	network := newPodNetwork(h, "eth0", "eth1")
	before := network.describe()
	spec := bundle.Spec("/bin/sh", "-c", "hostname; nproc; ip -o -4 address; cat /data/file; echo ready; exec sleep 100000")
	spec.Hostname = "named"
	bundle.Namespace(spec, specs.NetworkNamespace).Path = network.path
	bundle.Namespace(spec, specs.UTSNamespace).Path = ""
	spec.Linux.CgroupsPath = "/kata-test/" + h.ID()
	quota, period := int64(100_000), uint64(100_000)
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	data := h.File("data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind", "ro"}})
	d := detach(h, spec)
	output := h.WaitText(d.output, "ready")
	for _, want := range []string{"named\n2\n", "eth0    inet 10.80.0.2/24", "eth1    inet 10.80.1.2/24", "of the host\n"} {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %q:\n%s", want, output)
		}
	}
	// The process that waited is the pod's, and all of its processes are in its group.
	supervisor := process(h, "supervisor "+d.id) // its command line tells whose it is by now
	if supervisor.PID != prepared {
		t.Errorf("the supervisor is %v, want process %d", supervisor, prepared)
	}
	for controller := range limits(t) {
		pids := strings.Fields(groupFile(t, controller, spec.Linux.CgroupsPath, "cgroup.procs"))
		for _, p := range h.Processes() {
			if p.PPID == prepared && !slices.Contains(pids, strconv.Itoa(p.PID)) {
				t.Errorf("%v is not in the pod's control group, where %v are", p, pids)
			}
		}
		if !slices.Contains(pids, strconv.Itoa(prepared)) {
			t.Errorf("the supervisor is not in the pod's control group, where %v are", pids)
		}
	}
	h.Must("delete", "--force", d.id)
	h.WaitExit(prepared)
	network.check(before)
}
