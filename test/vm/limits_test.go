//go:build vm

package vm

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// limited prepares a command of the runtime whose caller has limits: ulimit is
// a shell's command.
func limited(h *harness.Host, ulimit string, args ...string) *exec.Cmd {
	command := h.Command(args...)
	command.Args = append([]string{"sh", "-c", ulimit + ` && exec "$0" "$@"`}, command.Args...)
	command.Path = "/bin/sh"
	return command
}

// largeFilter denies the container some calls, by enough rules to take memory.
func largeFilter() *specs.LinuxSeccomp {
	filter := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno}},
	}
	for i := range uint64(200) {
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{
			Names: []string{"personality"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: 1000 + i, Op: specs.OpEqualTo}},
		})
	}
	return filter
}

// TestLimits: a container has the limits that its specification lists, however
// high or low, and otherwise its caller's, which are another one's for each
// process that is added. Its timers are as precise as on a host, not as the
// agent's.
func TestLimits(t *testing.T) {
	const hostsMost = 1073741816
	hostParameter(t, "/proc/sys/fs/nr_open", strconv.Itoa(hostsMost))
	hostParameter(t, "/proc/sys/vm/max_map_count", "262144")
	const low = 64 << 20
	spec := bundle.Spec("/bin/sh", "-c", `ulimit -Hn; ulimit -Sn; ulimit -v; ulimit -d; ulimit -Ss; ulimit -Hs; ulimit -t
		cat /proc/sys/fs/nr_open /proc/sys/vm/max_map_count; grep Seccomp: /proc/self/status
		cat /proc/self/timerslack_ns; exec sleep 100000`)
	spec.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 1000, Hard: hostsMost},
		{Type: "RLIMIT_AS", Soft: low, Hard: low},
		{Type: "RLIMIT_DATA", Soft: low, Hard: low},
	}
	spec.Linux.Seccomp = largeFilter()
	h := harness.New(t)
	id, output := h.ID(), h.File("output")
	file, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// Of the processor's time, QEMU has no more either where a hard limit cannot be
	// lifted.
	create := limited(h, "ulimit -Ss 2048 && ulimit -Hs 4096 && ulimit -t 600", "create", "-b", h.Bundle(spec), id)
	create.Stdout, create.Stderr = file, file
	wantCode(t, h.Finish(create), 0)
	h.Must("start", id)

	// One that lists none has all of its caller's.
	process := h.File("process.json")
	if err := os.WriteFile(process, []byte(`{"cwd":"/","args":["/bin/sh","-c","ulimit -Sn; ulimit -Hn; ulimit -v; ulimit -Sc"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	result := h.Finish(limited(h, "ulimit -Sn 111 && ulimit -Hn 2222 && ulimit -Sc 8", "exec", "--process", process, id))
	wantCode(t, result, 0)
	if got, want := strings.Fields(result.Stdout), "111 2222 unlimited 8"; strings.Join(got, " ") != want {
		t.Errorf("exec of a process file: limits %q, want %q", got, want)
	}
	for range 5 { // what goes wrong here does not always
		result := h.Finish(limited(h, "ulimit -Ss 1024", "exec", id, "/bin/sh", "-c", "ulimit -Sn; ulimit -v; ulimit -d; ulimit -Ss; cat /proc/self/timerslack_ns"))
		wantCode(t, result, 0)
		if got, want := strings.Fields(result.Stdout), "1000 65536 65536 1024 50000"; strings.Join(got, " ") != want {
			t.Errorf("exec of a command: limits %q, want %q", got, want)
		}
	}
	compareCeilings(t, h, id)
	h.Must("delete", "--force", id)
	data, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	want := "1073741816 1000 65536 65536 2048 4096 600 1073741816 262144 Seccomp: 2 50000"
	if got := strings.Join(strings.Fields(string(data)), " "); got != want {
		t.Errorf("the container's limits: %q, want %q", got, want)
	}
}

// compareCeilings checks that the guest's parameters are no lower than the
// host's. Its kernel does not have all of them.
func compareCeilings(t *testing.T, h *harness.Host, id string) {
	t.Helper()
	script := "cd /proc/sys; for f; do test -e $f && echo $f $(cat $f); done; true"
	command := []string{"exec", id, "/bin/sh", "-c", script, "sh"}
	for _, ceiling := range protocol.Ceilings() {
		if !ceiling.Mode {
			command = append(command, ceiling.Name)
		}
	}
	lines := strings.Split(strings.TrimSpace(h.Must(command...)), "\n")
	if len(lines) < 20 {
		t.Errorf("the guest has %d of the parameters: %q", len(lines), lines)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, " ")
		data, err := os.ReadFile("/proc/sys/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		hosts, hostErr := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
		guests, guestErr := strconv.ParseUint(value, 10, 64)
		if err := errors.Join(err, hostErr, guestErr); err != nil || guests < hosts {
			t.Errorf("%s: %d in the guest, %d on the host (%v)", name, guests, hosts, err)
		}
	}
}

// hostParameter shows the runtime another value of a kernel parameter until the
// test ends. The machine's own stays as it is.
func hostParameter(t *testing.T, path, value string) {
	t.Helper()
	file := t.TempDir() + "/parameter"
	if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
}
