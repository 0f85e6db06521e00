package leak_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/leak"
)

func TestAddedNamesWhatIsNew(t *testing.T) {
	dir := t.TempDir()
	before, err := leak.Take(dir)
	if err != nil {
		t.Fatal(err)
	}

	file := filepath.Join(dir, "left")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	process := exec.Command("cat", "/dev/stdin")
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}

	added, err := before.Added()
	if err != nil {
		t.Fatal(err)
	}
	report := strings.Join(added, "\n")
	for _, want := range []string{"file " + file, "unix socket " + socket, "cat /dev/stdin"} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}

	if err := input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Fatal(err)
	}
	added, err = before.Added()
	if err != nil {
		t.Fatal(err)
	}
	if report := strings.Join(added, "\n"); strings.Contains(report, "cat /dev/stdin") {
		t.Errorf("the report names a process that has ended:\n%s", report)
	}
}

func TestProcessesReadsOddNames(t *testing.T) {
	// The kernel shows a program's name in parentheses, whatever is in it.
	program := filepath.Join(t.TempDir(), "a) (b")
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o700); err != nil {
		t.Fatal(err)
	}
	process := exec.Command(program)
	input, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer process.Wait()
	defer input.Close()

	all, err := leak.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == process.Process.Pid {
			if p.PPID != os.Getpid() || p.Start == 0 {
				t.Errorf("parent %d, start %d; want parent %d and a start time", p.PPID, p.Start, os.Getpid())
			}
			return
		}
	}
	t.Errorf("process %d is not in the list", process.Process.Pid)
}
