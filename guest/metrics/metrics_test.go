package metrics

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/guest/protocol"
)

// files writes files below a new directory.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// values are measurements by figure, each of which there is once.
func values(t *testing.T, list []*protocol.Measurement) map[protocol.Figure]float64 {
	t.Helper()
	byFigure := make(map[protocol.Figure]float64)
	for _, m := range list {
		if _, twice := byFigure[m.GetFigure()]; twice {
			t.Errorf("%v was measured twice", m.GetFigure())
		}
		byFigure[m.GetFigure()] = m.GetValue()
	}
	return byFigure
}

func TestGuest(t *testing.T) {
	proc := files(t, map[string]string{
		"meminfo": "MemTotal:        2048 kB\nMemFree:  1024 kB\nMemAvailable: 1500 kB\nBuffers: 1 kB\nCached: 2 kB\nShmem: 3 kB\nSlab: 4 kB\nHugePages_Total:       0\n",
		"loadavg": "0.50 0.25 0.10 2/38 81\n",
		"stat": "cpu  100 200 300 400 500 600 700 800 0 0\ncpu0 100 200 300 400 500 600 700 800 0 0\nintr 5 0 0\nctxt 1234\n" +
			"btime 1700000000\nprocesses 51\nprocs_running 2\nprocs_blocked 1\n",
		"uptime":          "12.34 5.00\n",
		"pressure/cpu":    "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
		"pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
		"self/net/dev": "Inter-|   Receive                                                |  Transmit\n" +
			" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
			"    lo: 999 9 9 9 0 0 0 0 999 9 9 9 0 0 0 0\n" +
			"  eth0:100 1 2 3 0 0 0 0 200 4 5 6 0 0 0 0\n" +
			"  eth1: 1000 10 20 30 0 0 0 0 2000 40 50 60 0 0 0 0\n",
		"diskstats": "   7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n 254 0 vda 10 0 4 0 20 0 8 0 0 1500 0\n 254 1 vda1 10 0 4 0 20 0 8 0 0 1500 0\n 254 16 vdb 1 0 2 0 3 0 4 0 0 500 0\n",
	})
	want := map[protocol.Figure]float64{
		protocol.Figure_MEMORY_SIZE_BYTES: 2048 << 10, protocol.Figure_MEMORY_FREE_BYTES: 1024 << 10,
		protocol.Figure_MEMORY_AVAILABLE_BYTES: 1500 << 10, protocol.Figure_MEMORY_BUFFERS_BYTES: 1 << 10,
		protocol.Figure_MEMORY_CACHED_BYTES: 2 << 10, protocol.Figure_MEMORY_SHARED_BYTES: 3 << 10, protocol.Figure_MEMORY_SLAB_BYTES: 4 << 10,
		protocol.Figure_LOAD_1: 0.5, protocol.Figure_LOAD_5: 0.25, protocol.Figure_LOAD_15: 0.1, protocol.Figure_PROCESSES: 38,
		protocol.Figure_CPU_USER_SECONDS: 1, protocol.Figure_CPU_NICE_SECONDS: 2, protocol.Figure_CPU_SYSTEM_SECONDS: 3,
		protocol.Figure_CPU_IDLE_SECONDS: 4, protocol.Figure_CPU_IOWAIT_SECONDS: 5, protocol.Figure_CPU_IRQ_SECONDS: 6,
		protocol.Figure_CPU_SOFTIRQ_SECONDS: 7, protocol.Figure_CPU_STEAL_SECONDS: 8,
		protocol.Figure_CONTEXT_SWITCHES: 1234, protocol.Figure_FORKS: 51,
		protocol.Figure_PROCESSES_RUNNABLE: 2, protocol.Figure_PROCESSES_BLOCKED: 1, protocol.Figure_UPTIME_SECONDS: 12.34,
		protocol.Figure_PRESSURE_CPU_SOME_SECONDS: 1.5, protocol.Figure_PRESSURE_MEMORY_SOME_SECONDS: 2, protocol.Figure_PRESSURE_MEMORY_FULL_SECONDS: 1,
		protocol.Figure_NETWORK_RECEIVE_BYTES: 1100, protocol.Figure_NETWORK_RECEIVE_PACKETS: 11,
		protocol.Figure_NETWORK_RECEIVE_ERRORS: 22, protocol.Figure_NETWORK_RECEIVE_DROPS: 33,
		protocol.Figure_NETWORK_TRANSMIT_BYTES: 2200, protocol.Figure_NETWORK_TRANSMIT_PACKETS: 44,
		protocol.Figure_NETWORK_TRANSMIT_ERRORS: 55, protocol.Figure_NETWORK_TRANSMIT_DROPS: 66,
		protocol.Figure_DISK_READS: 11, protocol.Figure_DISK_READ_BYTES: 6 * 512, protocol.Figure_DISK_WRITES: 23,
		protocol.Figure_DISK_WRITTEN_BYTES: 12 * 512, protocol.Figure_DISK_BUSY_SECONDS: 2,
	}
	if diff := cmp.Diff(want, values(t, Guest(proc))); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAKernelLacksIsLeftOut(t *testing.T) {
	if got := Guest(t.TempDir()); len(got) != 0 {
		t.Errorf("measured from nothing: %v", got)
	}
	if got := Container(filepath.Join(t.TempDir(), "gone")); len(got) != 0 {
		t.Errorf("measured a control group that is gone: %v", got)
	}
	if got := Container(""); len(got) != 0 {
		t.Errorf("measured no control group: %v", got)
	}
}

func TestContainer(t *testing.T) {
	dir := files(t, map[string]string{
		"cpu.stat":       "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnr_periods 0\nthrottled_usec 500000\n",
		"memory.current": "4096\n", "memory.max": "8192\n", "memory.stat": "anon 1\ninactive_file 1024\n", "memory.events": "low 0\noom 3\noom_kill 2\n",
		"pids.current": "3\n", "pids.max": "max\n",
		"io.stat": "254:0 rbytes=100 wbytes=200 rios=1 wios=2\n254:16 rbytes=1 wbytes=2 rios=1 wios=2\n",
	})
	want := map[protocol.Figure]float64{
		protocol.Figure_CONTAINER_CPU_USER_SECONDS: 2, protocol.Figure_CONTAINER_CPU_SYSTEM_SECONDS: 1, protocol.Figure_CONTAINER_CPU_THROTTLED_SECONDS: 0.5,
		protocol.Figure_CONTAINER_MEMORY_BYTES: 4096, protocol.Figure_CONTAINER_MEMORY_LIMIT_BYTES: 8192,
		protocol.Figure_CONTAINER_MEMORY_INACTIVE_FILE_BYTES: 1024, protocol.Figure_CONTAINER_OOM_KILLS: 2,
		protocol.Figure_CONTAINER_PIDS: 3, protocol.Figure_CONTAINER_READ_BYTES: 101, protocol.Figure_CONTAINER_WRITTEN_BYTES: 202,
	}
	if diff := cmp.Diff(want, values(t, Container(dir))); diff != "" {
		t.Error(diff)
	}
}

func TestAgent(t *testing.T) {
	got := values(t, Agent("/proc"))
	for _, figure := range []protocol.Figure{
		protocol.Figure_AGENT_RESIDENT_BYTES, protocol.Figure_AGENT_HEAP_BYTES, protocol.Figure_AGENT_GOROUTINES,
		protocol.Figure_AGENT_THREADS, protocol.Figure_AGENT_OPEN_FILES,
	} {
		if got[figure] <= 0 {
			t.Errorf("%v is %v", figure, got[figure])
		}
	}
	if _, ok := got[protocol.Figure_AGENT_CPU_SECONDS]; !ok {
		t.Error("no CPU time")
	}
}
