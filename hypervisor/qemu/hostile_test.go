package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/qmp"
)

// hostileVM is a running VM whose QEMU is this process, as far as its threads go, and
// answers each command with what answers has for it, or else with an empty object. nil: it
// was none from the beginning.
func hostileVM(t *testing.T, answers map[string]string, events string) *VM {
	t.Helper()
	o := minimal()
	o.Log, o.MaxSize = slog.New(slog.DiscardHandler), hypervisor.Size{VCPUs: 4, MemoryMiB: 4096}
	vm := &VM{
		opts: o, ended: make(chan struct{}), plugging: make(chan struct{}, 1), phase: phaseRunning,
		devices: map[string]*attached{"disk": {slot: &slot{}, deleted: make(chan unplugged, 1)}},
		info:    hypervisor.Info{PID: os.Getpid(), Size: o.Size},
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		_, _ = io.WriteString(theirs, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`+"\n")
		commands := bufio.NewScanner(theirs)
		for commands.Scan() {
			var c struct {
				Execute string `json:"execute"`
				ID      uint64 `json:"id"`
			}
			_ = json.Unmarshal(commands.Bytes(), &c)
			answer, known := answers[c.Execute]
			if !known {
				answer = "{}"
			}
			_, _ = fmt.Fprintf(theirs, "%s{\"return\": %s, \"id\": %d}\n", events, answer, c.ID)
		}
	}()
	client, err := qmp.New(t.Context(), ours, vm.handle)
	if err != nil {
		return nil // events are none
	}
	t.Cleanup(func() { client.Close() })
	vm.client = client
	return vm
}

// Whatever a QEMU says of its vCPUs' threads, those of other processes are none.
func FuzzVCPUThreads(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[{"cpu-index": 0, "thread-id": 1}]`, `[{"cpu-index": 2147483647, "thread-id": 2}, {"cpu-index": -1, "thread-id": 0}]`,
		`[{"cpu-index": 0, "thread-id": ` + strconv.Itoa(os.Getpid()) + `}, {"cpu-index": 0, "thread-id": ` + strconv.Itoa(os.Getpid()) + `}]`,
		`[{"thread-id": ` + strconv.Itoa(os.Getppid()) + `}]`, `null`, `{}`, `[null]`, `[{"cpu-index": 1e99}]`, `[[[[]]]]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		if !json.Valid([]byte(answer)) || strings.ContainsAny(answer, "\r\n") {
			return
		}
		vm := hostileVM(t, map[string]string{"query-cpus-fast": answer}, "")
		threads, err := vm.vcpuThreads(t.Context(), vm.client)
		if err != nil {
			return
		}
		seen := make(map[int]bool)
		for _, thread := range threads {
			if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(thread)); seen[thread] || errors.Is(err, os.ErrNotExist) && thread == os.Getppid() {
				t.Errorf("%s: thread %d", answer, thread)
			}
			seen[thread] = true
		}
	})
}

// A list of a hundred thousand vCPUs is one of no more threads than there are.
func TestManyVCPUs(t *testing.T) {
	line := strings.Repeat(`{"cpu-index": 4294967296, "thread-id": 7},`, 50_000) +
		strings.Repeat(`{"cpu-index": 9, "thread-id": `+strconv.Itoa(os.Getpid())+`},`, 50_000)
	vm := hostileVM(t, map[string]string{"query-cpus-fast": "[" + strings.TrimSuffix(line, ",") + "]"}, "")
	threads, err := vm.vcpuThreads(t.Context(), vm.client)
	if err != nil || len(threads) > 2 {
		t.Errorf("%d threads, %v", len(threads), err)
	}
}

// Whatever events and answers come, every call ends, and a VM grows by no more than was
// asked for.
func FuzzAnswers(f *testing.F) {
	f.Add(`{"event": "SHUTDOWN", "data": {"reason": "guest-reset"}}`, `[{"type": "t", "props": {"core-id": 1}}]`)
	f.Add(`{"event": "DEVICE_DELETED", "data": {"device": "dev-disk"}}`, `[]`)
	f.Add(`{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "dev-disk", "path": ""}}`, `{}`)
	f.Add(`{"event": "STOP", "data": []}`, `null`)
	f.Add(`{"event": "DEVICE_DELETED"}`, `[{"props": null}, {"qom-path": "x"}, {"props": {"thread-id": -9223372036854775808}}]`)
	f.Fuzz(func(t *testing.T, event, answer string) {
		for _, text := range []string{event, answer} {
			if !json.Valid([]byte(text)) || strings.ContainsAny(text, "\r\n") {
				return
			}
		}
		vm := hostileVM(t, map[string]string{"query-hotpluggable-cpus": answer, "add-fd": answer, "query-cpus-fast": answer}, event+"\n")
		if vm == nil {
			return
		}
		size, _ := vm.Resize(t.Context(), hypervisor.Size{VCPUs: 2, MemoryMiB: 2049})
		if size.VCPUs > 2 || size.MemoryMiB > 4096 {
			t.Errorf("the size is %+v", size)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_ = vm.Detach(ctx, "disk") // it may not be given back
		vm.Info()
	})
}

// A QEMU that gives its channels away before it ends does not keep Stop.
func TestChannelsThatOutliveQEMU(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	t.Cleanup(func() {
		data, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	vm, err := New(startable(t, "sleep 1000 >/dev/null 2>&1 & echo $! > "+pidFile+"; echo gone >&2; exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err = vm.Start(t.Context())
	var exit *hypervisor.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("Start: %v", err)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}

// A QEMU that was killed and does not end is an error that says so.
func TestStopIsBounded(t *testing.T) {
	vm, err := New(startable(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	vm.mu.Lock()
	vm.phase, vm.process, vm.info.PID, vm.patience = phaseRunning, cmd.Process, cmd.Process.Pid, 100*time.Millisecond
	vm.mu.Unlock()
	// Nobody waits for the process: it stays as one that was killed.
	if err := vm.Stop(t.Context()); !errors.Is(err, child.ErrStays) || !strings.Contains(err.Error(), "/proc/"+strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("Stop: %v", err)
	}
	vm.conclude(nil)
	if err := vm.Stop(t.Context()); err != nil {
		t.Errorf("Stop after its end: %v", err)
	}
}
