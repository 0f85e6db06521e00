package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/console"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/oci"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"9": syscall.SIGKILL, "KILL": syscall.SIGKILL, "sigterm": syscall.SIGTERM, "SIGUSR1": syscall.SIGUSR1, "64": 64, "0": 0,
	} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("parseSignal(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "65", "-1", "NOPE", "SIG"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("parseSignal(%q) = %v, want an error", text, got)
		}
	}
}

func TestPIDFileIsWholeAndWithoutNewline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	for _, pid := range []int{12345, 6} {
		if err := writePIDFile(path, pid); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "6" {
		t.Errorf("pid file %q, %v", data, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files in the directory, %v", len(entries), err)
	}
	if err := writePIDFile(filepath.Join(path, "x"), 1); err == nil {
		t.Error("a pid file below a file was written")
	}
}

func TestGlobalFlagsThatCallersGive(t *testing.T) {
	for _, args := range [][]string{
		{"--root", "R", "--log", "L", "--log-format", "json", "--systemd-cgroup", "list"},
		{"--root=R", "--log=L", "--log-format=json", "--rootless", "list"},
		{"--root=R", "--rootless=auto", "--debug", "list", "-q"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Chdir(t.TempDir())
			if code := runCommandLine(append([]string{"kata-runtime"}, args...)); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestErrorsGoToTheLogAsOneObject(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	code := runCommandLine([]string{
		"kata-runtime", "--root", dir, "--log", log, "--log-format", "json", "state", "nobody",
	})
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var entry struct{ Level, Msg, Time string }
	if err := json.Unmarshal(data, &entry); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if entry.Level != "error" || !strings.Contains(entry.Msg, "container does not exist") || entry.Time == "" {
		t.Errorf("entry %+v", entry)
	}
}

func TestTheExampleSpecIsAccepted(t *testing.T) {
	bundle := t.TempDir()
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1} { // it does not overwrite
		if code := runCommandLine([]string{"kata-runtime", "spec", "--bundle", bundle}); code != want {
			t.Errorf("spec, time %d: exit code %d, want %d", i+1, code, want)
		}
	}
	if _, _, err := loadBundle(bundle, "x", t.TempDir(), false); err != nil {
		t.Error(err)
	}
}

func TestStdioDecisions(t *testing.T) {
	process := func(terminal bool) *specs.Process { return &specs.Process{Terminal: terminal} }
	for _, test := range []struct {
		name               string
		terminal, attached bool
		socket             string
	}{
		{"socket without a terminal", false, false, "s"},
		{"detached terminal without a socket", true, false, ""},
		{"attached with a socket", true, true, "s"},
		{"socket that nobody listens on", true, false, filepath.Join(t.TempDir(), "s")},
	} {
		if _, err := newStdio(t.Context(), process(test.terminal), test.socket, test.attached); err == nil {
			t.Errorf("%s: no error", test.name)
		}
	}
	s, err := newStdio(t.Context(), process(false), "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if s.ownsTerminal || s.files[0] != os.Stdin {
		t.Errorf("plain streams: %+v", s)
	}
}

// A shell that nobody can type to would run for ever.
func TestNoTerminal(t *testing.T) {
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	defer pipe.Close()
	nowhere := filepath.Join(t.TempDir(), "tty")
	if err := findTerminal(nowhere, pipe, pipe, pipe); err == nil || !strings.Contains(err.Error(), "process.terminal") {
		t.Errorf("pipes alone: %v", err)
	}
	if err := findTerminal(os.DevNull, pipe); err != nil { // stands for the process's own
		t.Errorf("a terminal of the process's own: %v", err)
	}
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := findTerminal(nowhere, pipe, pipe, slave); err != nil {
		t.Errorf("a stream that is one: %v", err)
	}
}

func TestIsNull(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if !isNull(null) || isNull(file) {
		t.Errorf("isNull: %v for /dev/null, %v for a file", isNull(null), isNull(file))
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "64M": 64 << 20, "64mb": 64 << 20, "1GiB": 1 << 30, "2k": 2048, "-1": -1, "7b": 7, "8191p": 8191 << 50,
	} {
		if size, err := parseSize(text); err != nil || size != want {
			t.Errorf("%q is %d, %v; want %d", text, size, err, want)
		}
	}
	for _, text := range []string{"", "M", "1x", "1.5G", "-2", "-1M", "8192p", "9223372036854775808", "1 M", "1mbb"} {
		if _, err := parseSize(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// What callers of runc leave empty is as if it were not given.
func TestUpdateWithEmptyLimits(t *testing.T) {
	app := newApp()
	var got *specs.LinuxResources
	update := app.Command("update")
	update.Action = func(c *cli.Context) (err error) {
		got, err = updatedResources(c)
		return err
	}
	args := []string{"kata-runtime", "update", "--cpu-share", "512", "--cpu-quota=-1", "--blkio-weight", "0"}
	for _, flag := range []string{
		"memory", "memory-reservation", "memory-swap", "cpu-period", "cpu-burst", "cpu-idle", "cpuset-cpus", "cpuset-mems", "resources",
		"cpu-rt-period", "cpu-rt-runtime", "l3-cache-schema", "mem-bw-schema",
	} {
		args = append(args, "--"+flag, "")
	}
	if err := app.Run(append(args, "id")); err != nil {
		t.Fatal(err)
	}
	shares, quota := uint64(512), int64(-1)
	want := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("resources %+v, memory %+v, CPU %+v", got, got.Memory, got.CPU)
	}
	if err := app.Run([]string{"kata-runtime", "update", "--cpu-quota", "x", "id"}); err == nil {
		t.Error("a limit that is no number was taken")
	}
	for _, flag := range []string{"--l3-cache-schema", "--mem-bw-schema"} {
		if err := app.Run([]string{"kata-runtime", "update", flag, "L3:0=f", "id"}); !errors.Is(err, oci.ErrUnsupported) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestEmptyLogFormatIsText(t *testing.T) {
	if code := runCommandLine([]string{"kata-runtime", "--root", t.TempDir(), "--log-format", "", "list"}); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestEscapeJSON(t *testing.T) {
	document := "{\"a\":\"\u202e\u00e9\x7f\U0001f600\"}"
	escaped := escapeJSON([]byte(document))
	if want := `{"a":"\u202e\u00e9\u007f\ud83d\ude00"}`; string(escaped) != want {
		t.Errorf("escaped to %s", escaped)
	}
	var before, after map[string]string
	if err := errors.Join(json.Unmarshal([]byte(document), &before), json.Unmarshal(escaped, &after)); err != nil || before["a"] != after["a"] {
		t.Errorf("means %q, not %q; %v", after, before, err)
	}
}

func TestExecCgroup(t *testing.T) {
	for path, want := range map[string]string{"/": "/", "sub": "sub", "/a/b": "/a/b", "a/../b": "a/../b"} {
		if got, err := execCgroup([]string{path}); err != nil || got != want {
			t.Errorf("%q is %q, %v", path, got, err)
		}
	}
	for _, paths := range [][]string{{".."}, {"/../x"}, {"a/../../x"}, {"cpu:/x"}, {"a", "b"}} {
		if got, err := execCgroup(paths); err == nil {
			t.Errorf("%q is %q, want an error", paths, got)
		}
	}
	if got, err := execCgroup(nil); err != nil || got != "" {
		t.Errorf("no flag is %q, %v", got, err)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"-h"}, {"help"}, {"h"}, {"help", "exec"}, {"exec", "--help"}, {"node", "--help"}} {
		if code := runCommandLine(append([]string{"kata-runtime", "--root", t.TempDir()}, args...)); code != 0 {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
}

func TestUsageErrorsReachTheLogToo(t *testing.T) {
	for _, args := range [][]string{
		{"--log-format", "xml", "list"},
		{"--log-format", "json", "list", "--no-such-flag"},
		{"no-such-command"},
		{"help", "no-such-command"},
		{"list", "id"},
		{"features", "id"},
		{"checkpoint", "--image-path", "x", "id"},
		{"events", "--interval", "0s", "id"},
	} {
		log := filepath.Join(t.TempDir(), "log")
		if code := runCommandLine(append([]string{"kata-runtime", "--root", t.TempDir(), "--log", log}, args...)); code != 1 {
			t.Errorf("%q: exit code %d", args, code)
		}
		data, err := os.ReadFile(log)
		if err != nil || strings.Count(string(data), "\n") != 1 || !strings.Contains(string(data), "error") {
			t.Errorf("%q: log %q, %v", args, data, err)
		}
	}
}
