package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

// early is the id of a container whose supervisor dies once it has claimed the
// id; others die when they are sent a stand-in.
const early = "early"

func TestContainerWhoseStandInIsDeadHasStopped(t *testing.T) {
	root := t.TempDir()
	for _, status := range []virtcontainers.Status{virtcontainers.StatusCreated, virtcontainers.StatusRunning, virtcontainers.StatusPaused} {
		entry := recorded(t, root, string(status), string(status), status, self(t), deadProcess(t))
		state, err := currentState(entry)
		if err != nil || state.Status != virtcontainers.StatusStopped || state.ExitCode != 137 || viewOf(state).PID != 0 {
			t.Errorf("%s: %+v, %v", status, state, err)
		}
		if code, text := run(t, root, "kill", entry.ID(), "9"); code != 1 || !strings.Contains(text, virtcontainers.ErrNotRunning.Error()) {
			t.Errorf("kill: exit code %d, %s", code, text)
		}
		if _, err := findPod(root, oci.Pod{Sandbox: entry.ID()}); !errors.Is(err, virtcontainers.ErrNotRunning) {
			t.Errorf("join: %v", err)
		}
	}
	for name, c := range map[string]struct {
		status  virtcontainers.Status
		standIn process
	}{
		"creating":  {virtcontainers.StatusCreating, deadProcess(t)},
		"living":    {virtcontainers.StatusRunning, self(t)},
		"no-record": {virtcontainers.StatusRunning, process{}},
	} {
		state, err := currentState(recorded(t, root, name, name, c.status, self(t), c.standIn))
		if err != nil || state.Status != c.status {
			t.Errorf("%s: %+v, %v", name, state, err)
		}
	}
}

func TestListGoesPastWhatItCannotRead(t *testing.T) {
	root := t.TempDir()
	for _, damage := range []struct{ id, json string }{{"a-damaged", "{"}, {"b-newer", `{"version": 1000000}`}} {
		entry := recorded(t, root, damage.id, damage.id, virtcontainers.StatusRunning, self(t), self(t))
		if err := os.WriteFile(entry.Path("json"), []byte(damage.json), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	recorded(t, root, "c-whole", "c-whole", virtcontainers.StatusRunning, self(t), self(t))
	var warnings strings.Builder
	views, err := list(root, &warnings)
	if err != nil || len(views) != 1 || views[0].ID != "c-whole" {
		t.Errorf("listed %+v, %v", views, err)
	}
	lines := strings.Split(strings.TrimSpace(warnings.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "load container a-damaged: ") || !strings.HasPrefix(lines[1], "load container b-newer: ") {
		t.Errorf("warnings %q", lines)
	}
	if code, text := run(t, root, "list"); code != 0 {
		t.Errorf("exit code %d, %s", code, text)
	}
}

// Callers know what to do when a container is not running, and not when a
// supervisor cannot be reached.
func TestCommandsMeetASupervisorThatIsGone(t *testing.T) {
	for _, meeting := range []string{"no socket", "refused", "closed at Hello", "closed at the call"} {
		t.Run(meeting, func(t *testing.T) {
			for _, command := range [][]string{
				{"start"}, {"kill"}, {"pause"}, {"events", "--stats"}, {"exec"}, {"kill", "--all"},
			} {
				status := virtcontainers.StatusRunning
				if command[0] == "start" {
					status = virtcontainers.StatusCreated
				}
				root := shortDir(t)
				entry := recorded(t, root, "c1", "c1", status, self(t), self(t))
				switch meeting {
				case "refused":
					listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: entry.Path("supervisor.sock"), Net: "unix"})
					if err != nil {
						t.Fatal(err)
					}
					listener.SetUnlinkOnClose(false)
					listener.Close()
				case "closed at Hello", "closed at the call":
					serveDying(t, entry, meeting == "closed at the call")
				}
				wanted := virtcontainers.ErrNotRunning.Error()
				args := append(append([]string{}, command...), "c1")
				wantedCode := 1
				switch command[0] {
				case "exec":
					process := filepath.Join(root, "process.json")
					if err := os.WriteFile(process, []byte(`{"args":["/bin/true"],"cwd":"/","user":{"uid":0,"gid":0}}`), 0o600); err != nil {
						t.Fatal(err)
					}
					args, wantedCode = []string{"exec", "--process", process, "c1"}, execFailure
					wanted = "exec failed: " + wanted
				case "events":
					wanted = "is not running"
				case "kill":
					if len(command) == 2 {
						wanted, wantedCode = "", 0
					}
				}
				code, text := run(t, root, args...)
				if code != wantedCode || !strings.Contains(text, wanted) || strings.Contains(text, "no such file") {
					t.Errorf("%q: exit code %d, %s", args, code, text)
				}
			}
		})
	}
}

func TestWhatIsGoneDoesNotExist(t *testing.T) {
	entry := recorded(t, t.TempDir(), "c1", "c1", virtcontainers.StatusRunning, self(t), self(t))
	cause := fmt.Errorf("%w: cause", supervisor.ErrGone)
	if err := inCallersWords(entry, cause); !errors.Is(err, virtcontainers.ErrNotRunning) || !strings.Contains(err.Error(), "cause") {
		t.Errorf("there: %v", err)
	}
	if err := entry.Remove(); err != nil {
		t.Fatal(err)
	}
	err := inCallersWords(entry, cause)
	if !errors.Is(err, virtcontainers.ErrNotFound) || !strings.HasPrefix(err.Error(), "container does not exist") || !strings.Contains(err.Error(), "cause") {
		t.Errorf("gone: %v", err)
	}
	if err := inCallersWords(entry, virtcontainers.ErrState); err != virtcontainers.ErrState { //nolint:errorlint // the same
		t.Errorf("another error became %v", err)
	}
	if err := inCallersWords(entry, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// A supervisor that dies under a delete command leaves the rest to it.
func TestDeleteWhenTheSupervisorDies(t *testing.T) {
	for _, greets := range []bool{false, true} {
		root := shortDir(t)
		dead := deadProcess(t)
		entry := recorded(t, root, "c1", "c1", virtcontainers.StatusStopped, dead, dead)
		serveDying(t, entry, greets)
		if code, text := run(t, root, "delete", "--force", "c1"); code != 0 {
			t.Errorf("greets %v: exit code %d, %s", greets, code, text)
		}
		if _, err := lookup(root, "c1"); !errors.Is(err, virtcontainers.ErrNotFound) {
			t.Errorf("greets %v: %v", greets, err)
		}
	}
}

// endedCommand is a stand-in that has ended.
func endedCommand(t *testing.T) (*exec.Cmd, uint64) {
	t.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := store.StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return cmd, start
}

// marking is a poststop hook that leaves a file.
func marking(mark string) *specs.Hooks {
	return &specs.Hooks{Poststop: []specs.Hook{{Path: "/usr/bin/touch", Args: []string{"touch", mark}}}}
}

func TestSupervisorDiesUnderAnAttachedRun(t *testing.T) {
	root, mark := shortDir(t), filepath.Join(t.TempDir(), "mark")
	dead := deadProcess(t)
	standIn, start := endedCommand(t)
	entry := recorded(t, root, "c1", "c1", virtcontainers.StatusRunning, dead, process{standIn.Process.Pid, start})
	serveDying(t, entry, true)
	client, err := supervisor.Connect(t.Context(), entry)
	if err != nil {
		t.Fatal(err)
	}
	n := &creation{root: root, id: "c1", sandbox: "c1", supervisor: dead, client: client, standIn: standIn, standInStart: start}
	n.hooks = newHooks(&specs.Spec{Hooks: marking(mark)}, store.State{ID: "c1", Bundle: root}, nil)
	if err := n.finish(t.Context(), false); err != nil {
		t.Error(err)
	}
	if _, err := lookup(root, "c1"); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("the container: %v", err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the poststop hook has not run: %v", err)
	}
}

// The supervisor of a pod dies under the creation of a further container.
func TestSupervisorDiesUnderACreation(t *testing.T) {
	dead := deadProcess(t)
	standIn, start := endedCommand(t)
	mine := process{standIn.Process.Pid, start}
	for name, c := range map[string]struct {
		supervisor, standIn process
		left                bool
	}{
		"recorded":               {dead, mine, false},
		"reserved":               {dead, process{}, false},
		"of another command":     {dead, deadProcess(t), true},
		"of another, living pod": {self(t), process{}, true},
		"another with the pid":   {dead, process{mine.pid, mine.start + 1}, true},
		"of another dead pod":    {process{dead.pid, dead.start + 1}, mine, true},
	} {
		t.Run(name, func(t *testing.T) {
			root := shortDir(t)
			pod := recorded(t, root, "pod", "pod", virtcontainers.StatusRunning, dead, dead)
			serveDying(t, pod, true)
			client, err := supervisor.Connect(t.Context(), pod)
			if err != nil {
				t.Fatal(err)
			}
			recorded(t, root, "c1", "pod", virtcontainers.StatusCreating, c.supervisor, c.standIn)
			n := &creation{
				root: root, id: "c1", sandbox: "pod", created: true, supervisor: dead, client: client,
				standIn: standIn, standInStart: start,
			}
			if err := n.abandon(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := lookup(root, "c1"); errors.Is(err, virtcontainers.ErrNotFound) == c.left {
				t.Errorf("the container: %v", err)
			}
			if _, err := lookup(root, "pod"); err != nil {
				t.Errorf("the pod: %v", err)
			}
		})
	}
}

// A supervisor that dies gives its id free, also before it can tell that it has
// it.
func TestOwnSupervisorDiesUnderACreation(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	for _, id := range []string{early, "late"} {
		root := shortDir(t)
		n := &creation{root: root, id: id, sandbox: id}
		var err error
		n.client, err = n.launch(t.Context(), supervisor.Boot{Root: root, ID: id})
		if id != early {
			if err != nil {
				t.Fatal(err)
			}
			err = n.client.SendStandIn(id, "", os.Stdin)
			if abandonErr := n.abandon(t.Context()); abandonErr != nil {
				t.Errorf("abandon: %v", abandonErr)
			}
		}
		if !errors.Is(err, supervisor.ErrGone) {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := lookup(root, id); !errors.Is(err, virtcontainers.ErrNotFound) {
			t.Errorf("%s: the id is taken: %v", id, err)
		}
	}
}

func TestUpdateIgnoresWhatRuncIgnores(t *testing.T) {
	root := shortDir(t)
	code, text := run(t, root, "update", "--kernel-memory", "1", "--kernel-memory-tcp", strconv.Itoa(1<<20), "nobody")
	if code != 1 || !strings.Contains(text, "container does not exist") {
		t.Errorf("exit code %d, %s", code, text)
	}
}
