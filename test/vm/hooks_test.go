//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// hookLog is a directory in which hooks of the host leave what they saw.
type hookLog struct {
	h   *harness.Host
	dir string
}

func newHookLog(h *harness.Host) *hookLog {
	h.T.Helper()
	l := &hookLog{h: h, dir: h.File("hooks")}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		h.T.Fatal(err)
	}
	return l
}

// hook notes its name, its state, its directory, its namespaces and its host
// name, and then runs a script.
func (l *hookLog) hook(name, script string) specs.Hook {
	note := fmt.Sprintf(`
		cd_was=$(pwd); cd %s
		echo %[2]s >> order
		cat > %[2]s.state
		echo "$cd_was" > %[2]s.dir
		for n in net uts ipc pid mnt; do readlink /proc/self/ns/$n; done > %[2]s.namespaces
		hostname > %[2]s.hostname
		`, l.dir, name)
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", note + script}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}
}

// guestHook notes its name in the log, a directory of the container.
func (l *hookLog) guestHook(name, script string) specs.Hook {
	note := fmt.Sprintf("cd /hooks; echo %[1]s >> order; cat > %[1]s.state; cat /proc/$$/environ > %[1]s.env; hostname > %[1]s.hostname; ", name)
	// A program that does what its name says.
	return specs.Hook{Path: "/bin/busybox", Args: []string{"sh", "-c", note + script}, Env: []string{"PATH=/bin", "A=1"}}
}

// spec is a container with one hook of each kind, the log among its mounts.
func (l *hookLog) spec(version string, args ...string) *specs.Spec {
	spec := bundle.Spec(args...)
	spec.Version = version
	spec.Annotations = map[string]string{"org.example.key": "value"}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/hooks", Type: "bind", Source: l.dir, Options: []string{"bind"}})
	spec.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{l.hook("prestart", "")}, //nolint:staticcheck // deprecated, and in use
		CreateRuntime:   []specs.Hook{l.hook("createRuntime", "")},
		CreateContainer: []specs.Hook{l.hook("createContainer", "")},
		StartContainer:  []specs.Hook{l.guestHook("startContainer", "")},
		Poststart:       []specs.Hook{l.hook("poststart", "")},
		Poststop:        []specs.Hook{l.hook("poststop", "")},
	}
	return spec
}

func (l *hookLog) read(name string) string {
	l.h.T.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		l.h.T.Error(err)
	}
	return string(data)
}

func (l *hookLog) wantOrder(names ...string) {
	l.h.T.Helper()
	if diff := cmp.Diff(names, strings.Fields(l.read("order"))); diff != "" {
		l.h.T.Errorf("order of the hooks (- want, + got):\n%s", diff)
	}
}

func (l *hookLog) wantState(name string, want state) {
	l.h.T.Helper()
	var got state
	decode(l.h, l.read(name+".state"), &got)
	got.Created, got.Owner, got.Rootfs = want.Created, want.Owner, want.Rootfs // runc's, beside the specification's
	if diff := cmp.Diff(want, got); diff != "" {
		l.h.T.Errorf("state of %s (- want, + got):\n%s", name, diff)
	}
}

func (l *hookLog) wantText(name, want string) {
	l.h.T.Helper()
	if got := l.read(name); got != want {
		l.h.T.Errorf("%s: %q, want %q", name, got, want)
	}
}

// namespacesOf lists a process's namespaces as the hooks do.
func namespacesOf(t *testing.T, pid string) string {
	t.Helper()
	var all strings.Builder
	for _, kind := range []string{"net", "uts", "ipc", "pid", "mnt"} {
		name, err := os.Readlink("/proc/" + pid + "/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(name + "\n")
	}
	return all.String()
}

func TestHooks(t *testing.T) {
	h := harness.New(t)
	l := newHookLog(h)
	shared := h.File("shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("shared", shared, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(shared, unix.MNT_DETACH)
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	spec := l.spec("1.0.2", "/bin/sh", "-c", "echo program >> /hooks/order; "+waitForTerm)
	// What is mounted in the container's namespace must not show on the host.
	spec.Hooks.CreateContainer = append(spec.Hooks.CreateContainer,
		l.hook("createContainer2", "mkdir "+shared+"/m && busybox mount -t tmpfs none "+shared+"/m && echo yes > mounted"))
	spec.Hooks.StartContainer = append(spec.Hooks.StartContainer, l.guestHook("startContainer2", ""))
	// Failures that do not matter.
	spec.Hooks.Poststart = append([]specs.Hook{l.hook("poststart1", "echo no luck >&2; exit 3")}, spec.Hooks.Poststart...)
	spec.Hooks.Poststop = append([]specs.Hook{l.hook("poststop1", "echo no such thing >&2; exit 4")}, spec.Hooks.Poststop...)
	dir, id := h.Bundle(spec), h.ID()

	pidFile := h.File("pid")
	create := h.Command("create", "-b", dir, "--pid-file", pidFile, id)
	output, err := os.Create(h.File("out"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	create.Stdout, create.Stderr = output, output
	if result := h.Finish(create); result.Code != 0 {
		text, _ := os.ReadFile(output.Name())
		t.Fatalf("create: exit code %d: %s", result.Code, text)
	}
	l.wantOrder("prestart", "createRuntime", "createContainer", "createContainer2")
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	want := state{Version: "1.0.2", ID: id, PID: pid, Status: "creating", Bundle: dir, Annotations: spec.Annotations}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"prestart", "createRuntime"} {
		l.wantState(name, want)
		l.wantText(name+".dir", dir+"\n")
		l.wantText(name+".namespaces", namespacesOf(t, "self"))
		l.wantText(name+".hostname", host+"\n")
	}
	want.PID = 1
	l.wantState("createContainer", want)
	l.wantText("createContainer.dir", filepath.Join(dir, "rootfs")+"\n")
	l.wantText("createContainer.namespaces", namespacesOf(t, string(text)))
	l.wantText("createContainer.hostname", "box\n")
	l.wantText("mounted", "yes\n")
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), shared+"/m") {
		t.Errorf("a mount in the container's namespace shows on the host (%v): %s", err, mounts)
	}

	// Later edits of the config have no effect.
	edited := *spec
	edited.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false"}}, Poststop: []specs.Hook{{Path: "/bin/false"}}}
	if err := bundle.WriteConfig(dir, &edited); err != nil {
		t.Fatal(err)
	}
	started := h.Run("start", id)
	wantCode(t, started, 0)
	h.WaitText(output.Name(), "ready")
	if !strings.Contains(started.Stderr, "poststart hook #0 (/bin/sh): exit status 3") || !strings.Contains(started.Stderr, "no luck") {
		t.Errorf("start warns %q", started.Stderr)
	}
	want.PID, want.Status = 1, "created"
	l.wantState("startContainer", want)
	l.wantText("startContainer.env", "PATH=/bin\x00A=1\x00")
	l.wantText("startContainer.hostname", "box\n")
	want.PID, want.Status = pid, "running"
	l.wantState("poststart", want)
	l.wantText("poststart.namespaces", namespacesOf(t, "self"))

	h.Must("kill", id)
	if code := h.Reap(pid); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	deleted := h.Run("delete", id)
	wantCode(t, deleted, 0)
	if !strings.Contains(deleted.Stderr, "poststop hook #0 (/bin/sh): exit status 4") || !strings.Contains(deleted.Stderr, "no such thing") {
		t.Errorf("delete warns %q", deleted.Stderr)
	}
	want.PID, want.Status = 0, "stopped"
	l.wantState("poststop", want)
	l.wantText("poststop.namespaces", namespacesOf(t, "self"))
	order := strings.Fields(l.read("order"))
	sortProgram(order)
	if diff := cmp.Diff([]string{
		"prestart", "createRuntime", "createContainer", "createContainer2",
		"startContainer", "startContainer2", "program", "poststart1", "poststart", "poststop1", "poststop",
	}, order); diff != "" {
		t.Errorf("order of the hooks (- want, + got):\n%s", diff)
	}
}

// sortProgram puts the program's own note before the poststart hooks': the two
// write at the same time.
func sortProgram(order []string) {
	for i := len(order) - 1; i > 0; i-- {
		if order[i] == "program" && strings.HasPrefix(order[i-1], "poststart") {
			order[i], order[i-1] = order[i-1], order[i]
		}
	}
}

func TestRunRunsHooks(t *testing.T) {
	h := harness.New(t)
	l := newHookLog(h)
	result := h.Run("run", "-b", h.Bundle(l.spec("1.3.0", "/bin/sh", "-c", "exit 6")), h.ID())
	wantCode(t, result, 6)
	if result.Stderr != "" {
		t.Errorf("standard error %q", result.Stderr)
	}
	l.wantOrder("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
}

// When a hook fails nothing is left, except for what poststop hooks do of it.
func TestFailingHooks(t *testing.T) {
	seconds := 1
	for _, c := range []struct {
		name  string
		spec  func(l *hookLog, hooks *specs.Hooks)
		start bool // the failure is start's, not create's
		texts []string
		order []string
	}{
		{
			name:  "prestart that is not there",
			spec:  func(_ *hookLog, hooks *specs.Hooks) { hooks.Prestart = []specs.Hook{{Path: "/no/such/hook"}} }, //nolint:staticcheck // deprecated, and in use
			texts: []string{"prestart hook #0 (/no/such/hook)", "no such file or directory"},
			order: []string{"poststop"},
		},
		{
			name: "createRuntime that hangs",
			spec: func(l *hookLog, hooks *specs.Hooks) {
				slow := specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &seconds}
				hooks.CreateRuntime = append(hooks.CreateRuntime, slow, l.hook("never", ""))
			},
			texts: []string{"createRuntime hook #1 (/bin/sleep)", "timeout of 1s"},
			order: []string{"prestart", "createRuntime", "poststop"},
		},
		{
			name: "createRuntime that makes an interface without frames",
			spec: func(l *hookLog, hooks *specs.Hooks) {
				hooks.CreateRuntime = []specs.Hook{l.hook("net", `
					pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/' net.state)
					nsenter -t $pid --net ip tuntap add dev late mode tun
					nsenter -t $pid --net ip link set late up`)}
			},
			texts: []string{"connect network", "interface late (tuntap)", "cannot be connected"},
			order: []string{"prestart", "net", "createContainer", "poststop"},
		},
		{
			name: "createContainer",
			spec: func(l *hookLog, hooks *specs.Hooks) {
				hooks.CreateContainer = append(hooks.CreateContainer, l.hook("bad", "yes noise | head -c 5000000 >&2; echo no card >&2; exit 7"))
			},
			texts: []string{"createContainer hook #1 (/bin/sh): exit status 7", "no card"},
			order: []string{"prestart", "createRuntime", "createContainer", "bad", "poststop"},
		},
		{
			name: "startContainer",
			spec: func(l *hookLog, hooks *specs.Hooks) {
				hooks.StartContainer = append(hooks.StartContainer, l.guestHook("bad", "echo no card >&2; exit 7"))
			},
			start: true,
			texts: []string{"startContainer hook #1 (/bin/busybox): exit status 7", "no card"},
			order: []string{"prestart", "createRuntime", "createContainer", "startContainer", "bad", "poststop"},
		},
		{
			name: "startContainer that hangs",
			spec: func(l *hookLog, hooks *specs.Hooks) {
				slow := specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &seconds}
				hooks.StartContainer = []specs.Hook{slow, l.guestHook("never", "")}
			},
			start: true,
			texts: []string{"startContainer hook #0 (/bin/sleep)", "timeout of 1s"},
			order: []string{"prestart", "createRuntime", "createContainer", "poststop"},
		},
		{
			name: "poststart",
			spec: func(l *hookLog, hooks *specs.Hooks) {
				hooks.Poststart = []specs.Hook{l.hook("bad", "echo no card >&2; exit 7"), l.hook("never", "")}
			},
			start: true,
			texts: []string{"poststart hook #0 (/bin/sh): exit status 7", "no card"},
			order: []string{"prestart", "createRuntime", "createContainer", "startContainer", "bad", "poststop"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := harness.New(t)
			l := newHookLog(h)
			spec := l.spec("1.3.0", "/bin/sleep", "1000")
			c.spec(l, spec.Hooks)
			id, dir := h.ID(), h.Bundle(spec)
			if c.start {
				wantCode(t, h.Finish(detachedFrom(h.Command("create", "-b", dir, id))), 0)
				wantFailure(h, c.texts, "start", id)
			} else {
				wantFailure(h, c.texts, "run", "-b", dir, id)
			}
			l.wantOrder(c.order...)
			var got state
			decode(h, l.read("poststop.state"), &got)
			if got.Status != "stopped" || got.PID != 0 || got.ID != id {
				t.Errorf("poststop got %+v", got)
			}
			h.Flags = nil
			if result := h.Run("state", id); result.Code != 1 || !strings.Contains(result.Stderr, "does not exist") {
				t.Errorf("state: exit code %d, %q", result.Code, result.Stderr)
			}
		})
	}
}

// detachedFrom gives a command no stream that its container could keep open.
func detachedFrom(command *exec.Cmd) *exec.Cmd {
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	return command
}

// A creation whose hooks are under way is visible, and can be deleted.
func TestDeleteDuringHooks(t *testing.T) {
	h := harness.New(t)
	l := newHookLog(h)
	fifo := filepath.Join(l.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := l.spec("1.3.0", "/bin/true")
	spec.Hooks.Prestart = []specs.Hook{l.hook("prestart", "cat fifo; sleep 1000")} //nolint:staticcheck // deprecated, and in use
	id := h.ID()
	command := h.Command("run", "-b", h.Bundle(spec), id)
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for the hook to read
	if err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if s := stateOf(h, id); s.Status != "creating" {
		t.Errorf("status %q during a hook of create", s.Status)
	}
	h.Must("delete", "--force", id)
	if result := h.Run("state", id); result.Code != 1 || !strings.Contains(result.Stderr, "does not exist") {
		t.Errorf("state: exit code %d, %q", result.Code, result.Stderr)
	}
	text := h.ReadAll(stderr)
	if code := h.Wait(command); code != 1 || !strings.Contains(text, "deleted") {
		t.Errorf("exit code %d, %q", code, text)
	}
	l.wantOrder("prestart", "poststop")
}

func TestPoststopAfterTheSupervisorsDeath(t *testing.T) {
	h := harness.New(t)
	l := newHookLog(h)
	d := detach(h, l.spec("1.3.0", "/bin/sh", "-c", waitForTerm))
	h.WaitText(d.output, "ready")
	for _, p := range h.Processes() {
		if strings.HasPrefix(p.Command, "kata-runtime supervisor") {
			if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.Reap(d.pid)
	h.Must("delete", "--force", d.id)
	l.wantOrder("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
	h.Must("delete", "--force", d.id)
	l.wantOrder("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
}
