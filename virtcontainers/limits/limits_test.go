package limits

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// asProgram makes the test program report its caller's limits instead, and lifts
// makes it lift them before, without the capability for it.
const (
	asProgram = "KATA_TEST_REPORT_LIMITS"
	lifts     = "KATA_TEST_LIFT_LIMITS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(asProgram); dir != "" {
		if os.Getenv(lifts) != "" {
			if err := liftUnprivileged(); err != nil {
				panic(err)
			}
		}
		limits, err := OfCaller(dir)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(limits)
		}
		if err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func liftUnprivileged() error {
	runtime.LockOSThread() // the thread is the one without the capability
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	return Lift()
}

// callersLimits is what a program reports that a shell starts after a command.
func callersLimits(t *testing.T, dir, command string) map[string][2]uint64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command+` && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), asProgram+"="+dir)
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var limits []specs.POSIXRlimit
	if err := json.Unmarshal(output, &limits); err != nil {
		t.Fatal(err)
	}
	byType := make(map[string][2]uint64)
	for _, limit := range limits {
		byType[limit.Type] = [2]uint64{limit.Soft, limit.Hard}
	}
	return byType
}

// Go raises the soft limit of open files for itself alone.
func TestOfCaller(t *testing.T) {
	got := callersLimits(t, System, "ulimit -Sn 111 && ulimit -Hn 333 && ulimit -Ss 4096 && ulimit -Hs 8192")

	if len(got) != len(protocol.Rlimits()) {
		t.Errorf("%d limits, want one of each type", len(got))
	}
	if want := [2]uint64{111, 333}; got["RLIMIT_NOFILE"] != want {
		t.Errorf("RLIMIT_NOFILE: %v, want %v", got["RLIMIT_NOFILE"], want)
	}
	if want := [2]uint64{4096 << 10, 8192 << 10}; got["RLIMIT_STACK"] != want {
		t.Errorf("RLIMIT_STACK: %v, want %v", got["RLIMIT_STACK"], want)
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CPU, &own); err != nil {
		t.Fatal(err)
	}
	if want := [2]uint64{own.Cur, own.Max}; got["RLIMIT_CPU"] != want { // unlimited, as a rule
		t.Errorf("RLIMIT_CPU: %v, want %v", got["RLIMIT_CPU"], want)
	}
}

// Where hard limits cannot be lifted, one does not keep another from being lifted
// up to its hard one.
func TestLiftUnprivileged(t *testing.T) {
	t.Setenv(lifts, "1")
	got := callersLimits(t, System, "ulimit -St 1000 && ulimit -Ht 2000 && ulimit -Sf 3000 && ulimit -Hf 4000 && ulimit -Sd 50000000")
	for name, want := range map[string]uint64{"RLIMIT_CPU": 2000, "RLIMIT_FSIZE": 4000 << 9, "RLIMIT_DATA": unix.RLIM_INFINITY} {
		if got[name][0] != want {
			t.Errorf("%s: %d, want %d", name, got[name][0], want)
		}
	}
}

// What could not be set could not be inherited by a process in another kernel.
func TestOfCallerAboveTheKernels(t *testing.T) {
	dir := parameters(t, map[string]string{"fs/nr_open": "222\n"})
	got := callersLimits(t, dir, "ulimit -Sn 111 && ulimit -Hn 333")
	if want := [2]uint64{111, 222}; got["RLIMIT_NOFILE"] != want {
		t.Errorf("RLIMIT_NOFILE: %v, want %v", got["RLIMIT_NOFILE"], want)
	}
}

// parameters makes a directory of kernel parameters.
func parameters(t *testing.T, values map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range values {
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

func TestCeilings(t *testing.T) {
	got, err := Ceilings(parameters(t, map[string]string{
		"fs/nr_open": "1073741816\n", "kernel/pid_max": "99999999\n", "vm/overcommit_memory": "2\n", "kernel/core_pattern": "|/bin/sh",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"fs/nr_open": 1073741816, "kernel/pid_max": 4194304}
	for _, value := range got {
		if want[value.GetName()] != value.GetValue() {
			t.Errorf("%s = %d, want %d", value.GetName(), value.GetValue(), want[value.GetName()])
		}
		delete(want, value.GetName())
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// The table's names are right, and its maxima are not below a real kernel's
// values.
func TestCeilingsOfThisHost(t *testing.T) {
	if _, err := os.Stat(filepath.Join(System, "fs/nr_open")); err != nil {
		t.Skip("no kernel parameters here")
	}
	got, err := Ceilings(System)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, value := range got {
		found[value.GetName()] = true
	}
	var missing []string
	for _, ceiling := range protocol.Ceilings() {
		if !found[ceiling.Name] && !ceiling.Mode {
			missing = append(missing, ceiling.Name)
		}
	}
	if len(missing) > 3 { // kernels are built without this or that
		t.Errorf("this kernel does not have: %s", strings.Join(missing, ", "))
	}
}

func TestMoreFiles(t *testing.T) {
	var before, during, after unix.Rlimit
	get := func(limit *unix.Rlimit) {
		t.Helper()
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, limit); err != nil {
			t.Fatal(err)
		}
	}
	get(&before)
	low := unix.Rlimit{Cur: 100, Max: before.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &low, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &before, nil) }()
	restore, err := MoreFiles()
	if err != nil {
		t.Fatal(err)
	}
	get(&during)
	restore()
	get(&after)
	if during.Cur != before.Max || during.Max != before.Max || after != low {
		t.Errorf("soft limit 100 of %d became %+v, and %+v again", before.Max, during, after)
	}
}
