package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/internal/pipetail"
)

// TestMain is also a process that becomes a hook, and a command that runs one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case Command:
			os.Exit(Become(os.Args[2:]))
		case joiningCommand:
			os.Exit(runJoined(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

const joiningCommand = "joining"

// runJoined runs a script as a hook in the PID namespace of a path.
func runJoined(namespace, script string) int {
	hook := shell(script)
	err := Run(context.Background(), CreateContainer, []specs.Hook{hook}, nil, Options{Dir: "/", Join: func() error { return joinPID(namespace) }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func joinPID(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Setns(int(file.Fd()), unix.CLONE_NEWPID)
}

// pidNamespace is the path of a new one, which is there for the test's time.
func pidNamespace(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	cmd := exec.Command("cat") // ends with its input
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf("/proc/%d/ns/pid", cmd.Process.Pid)
}

// shell is a hook that runs a script, with these variables and no others.
func shell(script string, env ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"hook-name", "-c", script}, Env: env}
}

func timed(hook specs.Hook, seconds int) specs.Hook {
	hook.Timeout = &seconds
	return hook
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRunGivesAHookWhatTheSpecificationSays(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("NOT_FOR_HOOKS", "1")
	t.Setenv("PATH", "/of/the/caller")
	const state = `{"id":"x","status":"creating"}`
	list := []specs.Hook{
		shell("cat > stdin; tr '\\0' '\\n' < /proc/$$/environ > env; tr '\\0' ' ' < /proc/$$/cmdline > args; echo first >> order", "A=1", "B=two words"),
		shell("echo second >> order; echo \"$NOT_FOR_HOOKS $PATH\" > inherited"),
		{Path: "/usr/bin/touch", Args: []string{"touch", "third"}},
	}

	if err := Run(t.Context(), CreateRuntime, list, []byte(state), Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}

	for file, want := range map[string]string{"stdin": state, "env": "A=1\nB=two words\n", "order": "first\nsecond\n", "third": "", "inherited": "1 /of/the/caller\n"} {
		if got := read(t, filepath.Join(dir, file)); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if got := read(t, filepath.Join(dir, "args")); !strings.HasPrefix(got, "hook-name -c ") {
		t.Errorf("arguments %q", got)
	}
}

func TestFailuresNameTheHook(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("\x00\x01"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		hook  specs.Hook
		texts []string
		is    error
	}{
		{name: "exit code", hook: shell("echo starting >&2; echo no such card >&2; exit 3"), texts: []string{"exit status 3", `no such card"`}},
		{name: "says nothing", hook: shell("exit 1"), texts: []string{"exit status 1"}},
		{name: "prints much", hook: shell("yes chatter | head -c 9000000; yes complaint | head -c 9000000 >&2; echo the end >&2; exit 4"), texts: []string{"exit status 4", `complaint\nthe end"`}},
		{name: "control characters", hook: shell(`printf '\033[2J' >&2; exit 1`), texts: []string{`"\x1b[2J"`}},
		{name: "hangs", hook: timed(shell("echo waiting >&2; sleep 1000"), 2), texts: []string{"killed: it ran past its timeout of 2s", `waiting"`}, is: context.DeadlineExceeded},
		{name: "killed", hook: shell("kill -9 $$"), texts: []string{"signal: killed"}},
		{name: "missing", hook: specs.Hook{Path: "/no/such/hook"}, texts: []string{"/no/such/hook", "no such file"}, is: fs.ErrNotExist},
		{name: "not a program", hook: specs.Hook{Path: garbage}, texts: []string{"exec format error"}, is: unix.ENOEXEC},
		{name: "not executable", hook: specs.Hook{Path: "/etc/passwd"}, texts: []string{"permission denied"}, is: fs.ErrPermission},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "mark")
			list := []specs.Hook{shell(":"), c.hook, shell("touch " + mark)}

			err := Run(t.Context(), Prestart, list, []byte("{}"), Options{Dir: "/"})

			var failure *Error
			if !errors.As(err, &failure) {
				t.Fatalf("error %v", err)
			}
			if failure.Kind != Prestart || failure.Index != 1 || failure.Path != c.hook.Path || len(failure.Stderr) > pipetail.Size {
				t.Errorf("failure %+v", failure)
			}
			for _, text := range append(c.texts, fmt.Sprintf("prestart hook #1 (%s): ", c.hook.Path)) {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error lacks %q: %q", text, err)
				}
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error is not %v: %v", c.is, err)
			}
			if _, err := os.Stat(mark); err == nil {
				t.Error("the hook after the one that failed has run")
			}
		})
	}
}

func TestRunAllGoesOn(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	list := []specs.Hook{shell("exit 1"), shell("touch " + mark), shell("exit 2")}
	failures := RunAll(t.Context(), Poststop, list, nil, Options{Dir: "/"})
	if len(failures) != 2 || !strings.Contains(failures[0].Error(), "#0") || !strings.Contains(failures[1].Error(), "#2") {
		t.Errorf("failures %v", failures)
	}
	read(t, mark)
}

// A hook need not read its state, however large that is, and may leave a
// process behind that holds its standard error.
func TestNobodyWaitsForStreams(t *testing.T) {
	dir := t.TempDir()
	hook := shell("sleep 1000 & echo $! > pid; echo failed >&2; exit 1")
	err := Run(t.Context(), Prestart, []specs.Hook{hook}, make([]byte, 1<<20), Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), `"failed"`) {
		t.Errorf("error %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, "pid"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("the process that the hook left behind: %v", err)
	}
}

// A slow hook's children go with it, and so does a hook whose caller gives up.
func TestKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := errors.New("gave up")
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Prestart, []specs.Hook{shell("exec 3> fifo; echo x >&3; sleep 1000 & sleep 1000")}, nil, Options{Dir: dir})
	}()
	reader, err := os.Open(fifo) // returns when the hook has opened it
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := reader.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}

	cancel(gaveUp)

	if err := <-ended; !errors.Is(err, gaveUp) {
		t.Errorf("error %v", err)
	}
	if _, err := reader.Read(make([]byte, 1)); err == nil { // waits until no process has it open
		t.Error("more came out of the pipe")
	}
}

func TestJoin(t *testing.T) {
	joined := false
	list := []specs.Hook{shell("true")}
	if err := Run(t.Context(), CreateContainer, list, nil, Options{Dir: "/", Join: func() error { joined = true; return nil }}); err != nil || !joined {
		t.Errorf("joined %v, %v", joined, err)
	}
	refused := errors.New("refused")
	err := Run(t.Context(), CreateContainer, list, nil, Options{Dir: "/", Join: func() error { return refused }})
	if !errors.Is(err, refused) || !strings.Contains(err.Error(), "createContainer hook #0") {
		t.Errorf("error %v", err)
	}
}

// A hook in another PID namespace, which outlives it, goes with a command that
// is killed.
func TestJoinedHookGoesWithTheCommand(t *testing.T) {
	namespace := pidNamespace(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("/proc/self/exe", joiningCommand, namespace, "exec 3> "+fifo+"; echo $PPID >&3; exec sleep 1000")
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(fifo) // returns when the hook has opened it
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	line := make([]byte, 8)
	n, err := reader.Read(line)
	if err != nil || string(line[:n]) != "0\n" {
		t.Errorf("the hook's parent is %q, %v, not one outside its namespace", line[:n], err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()                                        // killed
	if _, err := reader.Read(line); !errors.Is(err, io.EOF) { // waits until no process has it open
		t.Errorf("the hook wrote on: %v", err)
	}
}

func TestJoinedHookIsTheHook(t *testing.T) {
	namespace := pidNamespace(t)
	dir := t.TempDir()
	options := Options{Dir: dir, Join: func() error { return joinPID(namespace) }}
	hook := shell("cat > stdin; tr '\\0' '\\n' < /proc/self/environ > env; tr '\\0' ' ' < /proc/self/cmdline > args; echo complaint >&2; exit 3", "A=1")
	hook.Args[0] = "named"
	hook.Args[2] = "echo $0 > name; " + hook.Args[2]
	err := Run(t.Context(), CreateContainer, []specs.Hook{hook}, []byte("state"), options)
	if err == nil || !strings.Contains(err.Error(), `createContainer hook #0 (/bin/sh): exit status 3; its standard error ends "complaint"`) {
		t.Errorf("error %v", err)
	}
	for file, want := range map[string]string{"stdin": "state", "name": "named\n"} {
		if got := read(t, filepath.Join(dir, file)); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	t.Setenv("NOT_FOR_HOOKS", "1")
	bare := []specs.Hook{shell("tr '\\0' '\\n' < /proc/self/environ > bare")}
	if err := Run(t.Context(), CreateContainer, bare, []byte("state"), options); err != nil {
		t.Error(err)
	} else if env := read(t, filepath.Join(dir, "bare")); strings.Contains(env, "NOT_FOR_HOOKS") {
		t.Errorf("environment of a joined hook %q", env)
	}
	if env := read(t, filepath.Join(dir, "env")); !strings.Contains(env, "A=1\n") || strings.Contains(env, "HOME=") {
		t.Errorf("environment %q", env)
	}
	for path, want := range map[string]error{"/no/such/hook": fs.ErrNotExist, "/etc/passwd": fs.ErrPermission} {
		err := Run(t.Context(), CreateContainer, []specs.Hook{{Path: path}}, nil, options)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := Run(t.Context(), CreateContainer, []specs.Hook{timed(shell("sleep 1000"), 1)}, nil, options); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v", err)
	}
}

func TestBound(t *testing.T) {
	huge := 1 << 62
	for _, c := range []struct {
		list []specs.Hook
		want time.Duration
		ok   bool
	}{
		{nil, 0, true},
		{[]specs.Hook{timed(shell(""), 2), timed(shell(""), 3)}, 5 * time.Second, true},
		{[]specs.Hook{timed(shell(""), 2), shell("")}, 0, false},
		{[]specs.Hook{{Timeout: &huge}}, 1 << 30 * time.Second, true},
	} {
		if got, ok := Bound(c.list); got != c.want || ok != c.ok {
			t.Errorf("%v, %v, want %v, %v", got, ok, c.want, c.ok)
		}
	}
}
