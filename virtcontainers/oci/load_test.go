package oci

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bundle makes a bundle with a rootfs directory and the text as config.json.
func bundle(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func encode(t testing.TB, spec *specs.Spec) string {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLoadSpec(t *testing.T) {
	want := baseSpec()
	got, err := LoadSpec(bundle(t, encode(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoadSpecIgnoresUnknownFields(t *testing.T) {
	text := strings.Replace(encode(t, baseSpec()), "{", `{"future":{"a":1},`, 1)
	if _, err := LoadSpec(bundle(t, text)); err != nil {
		t.Error(err)
	}
}

func TestLoadSpecVersions(t *testing.T) {
	for version, good := range map[string]bool{
		"1.0.0": true, "1.0.2-dev": true, "1.0.0-rc5": true, "1.1.0": true, "1.2.1": true, "1.3.0": true, "1.3.0+dev": true, "1.3.99": true, "1.4.0": true, "1.10.2": true,
		"": false, "1": false, "1.0": false, "2.0.0": false, "0.9.0": false, "1.x.0": false, "1.03.0": false, "1.0.0.0": false, "x": false, "-": false,
	} {
		spec := baseSpec()
		spec.Version = version
		if _, err := LoadSpec(bundle(t, encode(t, spec))); (err == nil) != good {
			t.Errorf("ociVersion %q: %v", version, err)
		}
	}
}

func TestLoadSpecFieldErrors(t *testing.T) {
	zero := 0
	tests := []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"no process", func(s *specs.Spec) { s.Process = nil }, "process must not be empty"},
		{"no args", func(s *specs.Spec) { s.Process.Args = nil }, "process.args must not be empty"},
		{"no cwd", func(s *specs.Spec) { s.Process.Cwd = "" }, "process.cwd must not be empty"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd "tmp" must be an absolute path`},
		{"NUL in an argument", func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} }, "process.args"},
		{"NUL in the environment", func(s *specs.Spec) { s.Process.Env = []string{"a\x00b"} }, "process.env"},
		{"NUL in the cwd", func(s *specs.Spec) { s.Process.Cwd = "/\x00" }, "process.cwd"},
		{"rlimit twice", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CORE"}}
		}, "process.rlimits[1]: RLIMIT_CORE"},
		{"no root", func(s *specs.Spec) { s.Root = nil }, "root must be specified"},
		{"empty root", func(s *specs.Spec) { s.Root.Path = "" }, "root.path must not be empty"},
		{"missing rootfs", func(s *specs.Spec) { s.Root.Path = "none" }, "no such file or directory"},
		{"rootfs is a file", func(s *specs.Spec) { s.Root.Path = "file" }, `root.path "file" is not a directory`},
		{"NUL in the root", func(s *specs.Spec) { s.Root.Path = "a\x00" }, "root.path"},
		{"mount without destination", func(s *specs.Spec) { s.Mounts = []specs.Mount{{}} }, "mounts[0].destination"},
		{"NUL in a mount", func(s *specs.Spec) { s.Mounts[0].Source = "\x00" }, "mounts[0]"},
		{"relative hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "x"}}} }, "hooks.poststop[0].path"},
		{"hook without time", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{}
			*hookLists(s.Hooks)[0].hooks = []specs.Hook{{Path: "/x", Timeout: &zero}}
		}, "hooks.prestart[0].timeout"},
		{"no linux", func(s *specs.Spec) { s.Linux = nil }, "linux must be specified"},
		{"unknown namespace", func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "x" }, `linux.namespaces[0].type: namespace "x" does not exist`},
		{"namespace twice", func(s *specs.Spec) { s.Linux.Namespaces[1].Type = "pid" }, `linux.namespaces[1].type: duplicated namespace "pid"`},
		{"relative namespace", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "x" }, "linux.namespaces[0].path"},
		{"NUL in a namespace", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/\x00" }, "linux.namespaces[0].path"},
		{"hostname", func(s *specs.Spec) { s.Hostname = "x" }, "hostname: unable to set it without a private UTS namespace"},
		{"domainname", func(s *specs.Spec) { s.Domainname = "x" }, "domainname"},
		{"long hostname", func(s *specs.Spec) { s.Hostname = strings.Repeat("x", 65) }, "hostname has 65 bytes, at most 64 are allowed"},
		{"long domainname", func(s *specs.Spec) { s.Domainname = strings.Repeat("x", 65) }, "domainname has 65 bytes"},
		{"mappings", func(s *specs.Spec) { s.Linux.GIDMappings = []specs.LinuxIDMapping{{}} }, "without a user namespace"},
		{"offsets", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, "without a time namespace"},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/x": "1"} }, `linux.sysctl "net/../kernel/x"`},
		{"NUL in a sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.x": "\x00"} }, `linux.sysctl "net.x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := baseSpec()
			test.change(spec)
			_, err := LoadSpec(bundle(t, encode(t, spec)))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), ConfigName) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
		})
	}
}

func TestLoadSpecFileErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", " \n", "the file is empty"},
		{"null", "null", "must not be null"},
		{"syntax", "{\n  \"ociVersion\": 1.,\n}", "line 2, column 19"},
		{"torn", `{"process": {`, "malformed JSON at line 1"},
		{"two values", "{} {}", "malformed JSON at line 1"},
		{"an array", "[]", "array"},
		{"wrong type", "{\n\"process\": {\"args\": \"sh\"}}", `field "process.args" at line 2`},
		{"too large", strings.Repeat(" ", maxSpecSize+1), "is larger than"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := LoadSpec(bundle(t, test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), ConfigName) {
				t.Errorf("error = %v, want %q", err, test.want)
			}
		})
	}
	_, err := LoadSpec(t.TempDir())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "config.json: no such file or directory") {
		t.Errorf("no config.json: %v", err)
	}
	if _, err := LoadSpec("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no bundle: %v", err)
	}
}

// TestLoadSpecNeverBlocks: a FIFO that nobody writes must not hang.
func TestLoadSpecNeverBlocks(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, ConfigName), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSpec(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("error = %v", err)
	}
}

func TestLoadProcess(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "process.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	process, err := LoadProcess(write(`{"args":["id"],"cwd":"/","user":{"uid":1,"gid":2}}`))
	if err != nil || process.User.UID != 1 || process.Args[0] != "id" {
		t.Errorf("LoadProcess = %+v, %v", process, err)
	}
	for _, text := range []string{"", "null", "{}", `{"args":["id"]}`, `{"args":["id"],"cwd":"x"}`, `{"cwd":"/"}`, `{"args":3}`} {
		if _, err := LoadProcess(write(text)); err == nil || !strings.Contains(err.Error(), "process.json") {
			t.Errorf("LoadProcess of %q: %v", text, err)
		}
	}
	if _, err := LoadProcess(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadProcess of nothing: %v", err)
	}
}

func TestValidateID(t *testing.T) {
	good := []string{"a", "A-z_0+9.x", "...", strings.Repeat("x", 255), "-a"}
	bad := []string{"", ".", "..", "a/b", "a b", "ä", "a\n", "a\x00", "a@b", strings.Repeat("x", 256)}
	for _, id := range good {
		if err := ValidateID(id); err != nil {
			t.Errorf("ValidateID(%q): %v", id, err)
		}
	}
	for _, id := range bad {
		if err := ValidateID(id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("ValidateID(%q): %v", id, err)
		}
	}
}

// FuzzLoadSpec: no text makes loading or translating panic, and what is
// accepted translates to something whose paths lead into the share.
func FuzzLoadSpec(f *testing.F) {
	f.Add(encode(f, baseSpec()))
	f.Add(`{"ociVersion":"1.0.2","process":{"args":["a"],"cwd":"/","rlimits":[{}]},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid"}],"resources":{"blockIO":{"weight":1}}},"mounts":[{"destination":"../a","type":"bind","source":"rootfs","options":["rbind","ro"]}]}`)
	f.Add(`{"hooks":{"poststop":[{}]},"windows":{},"vm":{"kernel":{"path":""}}}`)
	f.Add("[1")
	// Not through a file: that would make each run 20 times as long.
	dir := bundle(f, "")
	f.Fuzz(func(t *testing.T, text string) {
		spec := &specs.Spec{}
		if parseJSON([]byte(text), spec) != nil || validateSpec(spec, dir) != nil {
			return
		}
		options := testOptions()
		options.BundleDir = dir
		guest, err := Transform(spec, options)
		if err != nil {
			return
		}
		for i, b := range guest.Binds {
			if b.Index != i || !filepath.IsAbs(b.Source) || !strings.HasPrefix(b.GuestSource, options.SharePath+"/mounts/") {
				t.Errorf("bind %d = %+v", i, b)
			}
		}
		for _, m := range guest.Spec.Mounts {
			if !filepath.IsAbs(m.Destination) || filepath.Clean(m.Destination) != m.Destination {
				t.Errorf("destination %q", m.Destination)
			}
		}
	})
}

// FuzzValidateID: what is accepted names an entry of a directory.
func FuzzValidateID(f *testing.F) {
	for _, id := range []string{"a", "..", "a/../b", "", "\x00", "Ω"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if ValidateID(id) != nil {
			return
		}
		if path := filepath.Join("/root", id); filepath.Dir(path) != "/root" || filepath.Base(path) != id || len(id) > 255 {
			t.Errorf("%q was accepted", id)
		}
	})
}
