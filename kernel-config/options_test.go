package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/kernel-config/fragments"
	"kata-runtime/kernel-config/kconfig"
)

// write makes a file of a test's own and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestList(t *testing.T) {
	first := write(t, "first", "CONFIG_SMP=n\nCONFIG_XFS_FS=y\n")
	second := write(t, "second", "CONFIG_XFS_FS=n\n")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"list", "-arch", "arm64", "-json", "-fragment", first, "-fragment", second}, &out); err != nil {
		t.Fatal(err)
	}
	var options kconfig.Options
	if err := json.Unmarshal(out.Bytes(), &options); err != nil {
		t.Fatal(err)
	}
	own, err := fragments.Load("arm64", fragments.Default)
	if err != nil {
		t.Fatal(err)
	}
	if len(options) != len(own)+1 {
		t.Errorf("%d options, want one more than %d", len(options), len(own))
	}
	values := map[string]string{}
	for _, option := range options {
		values[option.Name] = option.Value
	}
	if values["CONFIG_SMP"] != "n" || values["CONFIG_XFS_FS"] != "n" {
		t.Errorf("the files do not win: SMP=%s, XFS_FS=%s", values["CONFIG_SMP"], values["CONFIG_XFS_FS"])
	}
	out.Reset()
	if err := run(t.Context(), []string{"list", "-arch", "amd64"}, &out); err != nil || !strings.Contains(out.String(), "CONFIG_PID_NS=y") {
		t.Errorf("%v: %s", err, &out)
	}
}

// The commands know profiles, and say which there are.
func TestProfiles(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // a line
	}{
		{[]string{"list", "-arch", "amd64", "-profile", "lsm"}, "CONFIG_SECURITY_APPARMOR=y"},
		{[]string{"list", "-arch", "amd64", "-profile", "minimal"}, "CONFIG_IO_URING=n"},
		{[]string{"diff", "-profiles", "-arch", "amd64", "default", "lsm"}, `CONFIG_LSM "landlock" -> "landlock,apparmor,selinux"  # in their order`},
		{[]string{"diff", "-profiles", "-arch", "arm64", "default", "minimal"}, "CONFIG_NF_TABLES y -> n"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), test.args, &out); err != nil || !strings.Contains(out.String(), test.want) {
			t.Errorf("%q: %v, want %q in\n%s", test.args, err, test.want, &out)
		}
	}
	for want, args := range map[string][]string{
		`no profile "tiny": want one of ["minimal" "default" "debug" "lsm"]`: {"build", "-o", "/dev/null", "-profile", "tiny"},
		`no profile "x"`:                     {"diff", "-profiles", "default", "x"},
		"the profile minimal has no modules": {"list", "-profile", "minimal", "-modules"},
	} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", args, err, want)
		}
	}
	own, err := fragments.Load("amd64", fragments.Minimal)
	if err != nil {
		t.Fatal(err)
	}
	kernel := write(t, "kernel", own.AllConfig())
	if err := run(t.Context(), []string{"check", "-arch", "amd64", "-profile", "minimal", "-config", kernel}, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	err = run(t.Context(), []string{"check", "-arch", "amd64", "-profile", "lsm", "-config", kernel}, &bytes.Buffer{})
	if !errors.Is(err, kconfig.ErrNotSurvived) || !strings.Contains(err.Error(), "CONFIG_SECURITY_APPARMOR=y, but the kernel has n") {
		t.Errorf("error %v", err)
	}
}

func TestListErrors(t *testing.T) {
	for text, want := range map[string]string{
		"CONFIG_A=y\nCONFIG_A=n\n": "CONFIG_A was set before",
		"CONFIG_A=m\n":             "modules are not built",
	} {
		err := run(t.Context(), []string{"list", "-fragment", write(t, "mine", text)}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := run(t.Context(), []string{"list", "-fragment", "/dev/null/absent"}, &bytes.Buffer{}); err == nil {
		t.Error("no error for a file that is absent")
	}
}

func TestDiff(t *testing.T) {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write([]byte("CONFIG_A=y\nCONFIG_C=y\n")); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	before, after := write(t, "config", "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=m\n"), write(t, "config.gz", packed.String())
	var out bytes.Buffer
	if err := run(t.Context(), []string{"diff", before, after}, &out); err != nil {
		t.Fatal(err)
	}
	if want := "CONFIG_C n -> y\nCONFIG_D m -> n\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	if err := run(t.Context(), []string{"diff", "-json", before, before}, &out); err != nil || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("no difference: %v, %s", err, &out)
	}
	for want, args := range map[string][]string{
		"want two files":            {"diff", before},
		"holds no kernel's":         {"diff", before, write(t, "text", "hello\n")},
		"unpack":                    {"diff", before, write(t, "broken.gz", "\x1f\x8bnothing")},
		"read a kernel's":           {"diff", before, "/dev/null/absent"},
		"configuration: read /proc": {"diff", before, "/proc"},
	} {
		if err := run(t.Context(), args, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A kernel of somebody else's has what is wanted, or the error lists what it lacks.
func TestCheckOther(t *testing.T) {
	options, err := fragments.Load("amd64", fragments.Default)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	good := write(t, "good", options.AllConfig())
	if err := run(t.Context(), []string{"check", "-arch", "amd64", "-config", good}, &out); err != nil || !strings.Contains(out.String(), "are there") {
		t.Errorf("%v: %s", err, &out)
	}
	bad := write(t, "bad", strings.Replace(options.AllConfig(), "CONFIG_PID_NS=y", "CONFIG_PID_NS=m", 1))
	err = run(t.Context(), []string{"check", "-arch", "amd64", "-config", bad}, &out)
	if !errors.Is(err, kconfig.ErrNotSurvived) || !strings.Contains(err.Error(), "CONFIG_PID_NS=y, but the kernel has m") {
		t.Errorf("error %v", err)
	}
}
