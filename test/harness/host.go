package harness

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/test/bundle"
	"kata-runtime/test/leak"
	"kata-runtime/virtcontainers/turn"
)

// Host is one test's view of the machine: its own state directory and its own
// temporary directory, and what there was before.
type Host struct {
	// T is the test that everything fails.
	T testing.TB
	// Root is the runtime's state directory (--root).
	Root string
	// Temp is the TMPDIR of the commands.
	Temp string
	// Program is the runtime; kata-runtime of this source tree when it is empty.
	Program string
	// Patience bounds each command; 0: the constant.
	Patience time.Duration
	// Flags stand before the subcommand of every command, after --root.
	Flags []string

	work   string // bundles and captured output
	before *leak.Snapshot
}

// New prepares for one test, and arranges that the test fails if, at its end,
// anything is there that was not before. The test itself deletes what
// containers it made.
func New(t testing.TB) *Host {
	t.Helper()
	dir := t.TempDir()
	h := &Host{T: t, Root: filepath.Join(dir, "root"), Temp: filepath.Join(dir, "tmp"), work: filepath.Join(dir, "work")}
	for _, d := range []string{h.Temp, h.work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before, err := leak.Take("/run", "/dev/shm", h.Temp)
	if err != nil {
		t.Fatal(err)
	}
	h.before = before
	t.Cleanup(h.checkLeaks)
	return h
}

// Repository returns the top of the source tree.
func Repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no Makefile above the working directory")
		}
		dir = parent
	}
}

// ID returns a new container id.
func (h *Host) ID() string { return "t" + strings.ToLower(rand.Text()[:12]) }

// Bundle makes a bundle of spec and returns its directory.
func (h *Host) Bundle(spec *specs.Spec) string {
	h.T.Helper()
	dir, err := os.MkdirTemp(h.work, "bundle")
	if err != nil {
		h.T.Fatal(err)
	}
	if err := bundle.Write(dir, spec); err != nil {
		h.T.Fatal(err)
	}
	return dir
}

// File returns a path, in a directory of the test's own, at which nothing is.
func (h *Host) File(name string) string { return filepath.Join(h.work, name) }

// checkLeaks waits for the runtime's processes to end and compares.
func (h *Host) checkLeaks() {
	h.T.Helper()
	if h.T.Failed() {
		h.killRest()
		return
	}
	for _, p := range h.newProcesses() {
		// An orphan that nobody has reaped holds up the end of the first
		// process of its PID namespace.
		h.reap()
		if !exited(h.T, p.PID, leakPatience) {
			h.T.Errorf("still running at the end: %s", p)
		}
	}
	h.reap()
	added, err := h.before.Added()
	if err != nil {
		h.T.Error(err)
	}
	for _, entry := range added {
		if othersOwn(entry) || ofAllPods(entry) {
			continue
		}
		h.T.Errorf("left behind: %s", entry)
	}
	// The state directory may stay, with nothing of a container in it.
	if left, err := os.ReadDir(h.Root); err == nil {
		for _, entry := range left {
			if entry.IsDir() {
				h.T.Errorf("left behind in the state directory: %s", entry.Name())
			}
		}
	}
	h.killRest()
}

// leakPatience is how long a process may go on after the command that ended
// its work has returned.
const leakPatience = 20 * time.Second

// killRest ends what a failed test left, so that the next one starts clean.
func (h *Host) killRest() {
	for _, p := range h.newProcesses() {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
	for _, p := range h.newProcesses() {
		exited(h.T, p.PID, leakPatience)
	}
	h.reap()
}

// Processes lists the processes that have appeared since New, zombies left out.
func (h *Host) Processes() []leak.Process {
	h.T.Helper()
	return slices.DeleteFunc(h.newProcesses(), func(p leak.Process) bool { return p.State == "Z" })
}

// newProcesses leaves nothing out: a process whose first thread has ended looks
// like a zombie while others of its threads go on.
func (h *Host) newProcesses() []leak.Process {
	all, err := leak.Processes()
	if err != nil {
		h.T.Error(err)
	}
	if OnSystemd() {
		all = descendants(all)
	}
	return slices.DeleteFunc(all, h.before.HasProcess)
}

// descendants are the processes below this one, of all that there are.
func descendants(all []leak.Process) []leak.Process {
	parents := map[int]int{}
	for _, p := range all {
		parents[p.PID] = p.PPID
	}
	return slices.DeleteFunc(all, func(p leak.Process) bool {
		pid := p.PID
		for pid != os.Getpid() && pid != 0 {
			pid = parents[pid]
		}
		return pid == 0
	})
}

// othersOwn tells whether an entry of the leak check may be somebody else's, on
// a machine that is not the tests' alone: processes are looked at before.
func othersOwn(entry string) bool {
	if !OnSystemd() {
		return false
	}
	for _, prefix := range []string{"process ", "file /run/systemd/", "file /run/dbus/", "cgroup /sys/fs/cgroup/system.slice/systemd-"} {
		if strings.HasPrefix(entry, prefix) {
			return true
		}
	}
	return false
}

// ofAllPods tells whether an entry of the leak check is what the pods of a host
// share and no pod takes with it: a fixed number of files.
func ofAllPods(entry string) bool {
	shared := "file " + jail.DefaultDir
	return entry == shared || entry == shared+"/users" || strings.HasPrefix(entry, shared+"/program-") ||
		entry == "file "+turn.DefaultDir
}

// reap collects the orphans that became this process's children, as the first
// process of a PID namespace must: those that have ended, and have one of the
// names if there are any.
func (h *Host) reap(names ...string) {
	for _, p := range h.newProcesses() {
		if p.State == "Z" && p.PPID == os.Getpid() && (len(names) == 0 || slices.Contains(names, strings.Trim(p.Command, "[]"))) {
			_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
		}
	}
}
