//go:build vm

package jail_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

// A restricted process keeps what it takes to look after a machine, in all its
// threads and what it starts; a call that only an attacker makes ends it.
func TestRestrict(t *testing.T) {
	program := buildRestricted(t)
	for _, who := range []string{"main", "thread"} {
		out, err := exec.CommandContext(t.Context(), program, who).Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, out)
		}
		if status, ok := exit.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != unix.SIGSYS {
			t.Errorf("%v: %s%s", err, out, exit.Stderr)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) < 7 {
			t.Errorf("%d threads: %s", len(lines), out)
		}
		for _, line := range lines {
			checkRestricted(t, line, "2")
		}
	}
}

// On a host that forbids filters it goes without one, and without nothing else.
func TestRestrictWithoutFilter(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), buildRestricted(t), "main", jail.PartSystemCalls).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		checkRestricted(t, line, "0")
	}
}

func buildRestricted(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "restricted")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/restricted")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func checkRestricted(t *testing.T, line, seccomp string) {
	t.Helper()
	fields := strings.Fields(line)
	if len(fields) != 10 {
		t.Errorf("says %q", line)
		return
	}
	for i := 0; i < len(fields); i += 2 {
		switch key, value := fields[i], fields[i+1]; key {
		case "NoNewPrivs":
			if value != "1" {
				t.Error(line)
			}
		case "Seccomp":
			if value != seccomp {
				t.Error(line)
			}
		default:
			set, err := strconv.ParseUint(value, 16, 64)
			if gone := uint64(1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_MODULE | 1<<unix.CAP_SYS_RAWIO | 1<<unix.CAP_SYSLOG); err != nil || set&gone != 0 || set&(1<<unix.CAP_SYS_ADMIN) == 0 {
				t.Errorf("%s of %q", key, line)
			}
		}
	}
}
