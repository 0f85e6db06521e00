package agentcheck_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kata-runtime/rootfs-builder/agentcheck"
)

// buildProgram compiles a small program the way an agent could be compiled.
func buildProgram(t *testing.T, cgo string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	source := "package main\n\nfunc main() {}\n"
	if cgo == "1" {
		source = "package main\n\n// #include <unistd.h>\nimport \"C\"\n\nfunc main() { C.getpid() }\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module program\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", "program"}, args...)...)
	command.Dir = dir
	command.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return filepath.Join(dir, "program")
}

func TestCheck(t *testing.T) {
	const static = "-linkmode external -extldflags -static"
	tests := map[string]struct {
		cgo  string
		args []string
		want []error
	}{
		"as an agent must be": {"1", []string{"-tags", "seccomp netgo osusergo", "-ldflags", static}, nil},
		"stripped":            {"1", []string{"-trimpath", "-tags", "seccomp,netgo", "-ldflags", "-s -w " + static}, nil},
		"without the tag":     {"1", []string{"-tags", "noseccomp", "-ldflags", static}, []error{agentcheck.ErrNoSeccomp}},
		"without cgo":         {"0", []string{"-tags", "seccomp"}, []error{agentcheck.ErrNoSeccomp}},
		"dynamic":             {"1", []string{"-tags", "seccomp", "-ldflags", "-linkmode external"}, []error{agentcheck.ErrNotStatic}},
		"dynamic and without": {"1", []string{"-ldflags", "-linkmode external"}, []error{agentcheck.ErrNotStatic, agentcheck.ErrNoSeccomp}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := agentcheck.Check(buildProgram(t, test.cgo, test.args...))
			for _, known := range []error{agentcheck.ErrNoSeccomp, agentcheck.ErrNotStatic} {
				want := false
				for _, wanted := range test.want {
					want = want || errors.Is(wanted, known)
				}
				if errors.Is(err, known) != want {
					t.Errorf("Check = %v; is %q: want %v", err, known, want)
				}
			}
			if len(test.want) == 0 && err != nil {
				t.Errorf("Check = %v, want nil", err)
			}
		})
	}
}

func TestCheckOfSomethingElse(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("not a program"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := agentcheck.Check(text); err == nil {
		t.Error("a text file was accepted")
	}
	if err := agentcheck.Check(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Check of an absent file = %v", err)
	}
}
