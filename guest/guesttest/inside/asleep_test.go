//go:build inguest

package inside

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
)

// pausing makes a container of the pod whose program is said to pause.
func (a *agent) pausing(id string) *streams {
	a.t.Helper()
	spec := join(newSpec(a.t, "sleep", "1000"), map[specs.LinuxNamespaceType]string{
		specs.IPCNamespace: protocol.SandboxNamespace, specs.UTSNamespace: protocol.SandboxNamespace,
	})
	document, err := json.Marshal(spec)
	if err != nil {
		a.t.Fatal(err)
	}
	s := a.connect(id, "", true, false)
	_, err = a.client.CreateContainer(a.t.Context(), &protocol.CreateContainerRequest{
		ContainerId: id, SpecJson: document, Stdin: true, Stdout: true, Stderr: true, Pause: true,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.asleep(id, true)
	return s
}

// asleep checks whether a container has processes.
func (a *agent) asleep(id string, want bool) {
	a.t.Helper()
	text, err := os.ReadFile("/sys/fs/cgroup/kata/" + id + "/cgroup.procs")
	if got := err != nil || len(text) == 0; got != want {
		a.t.Errorf("asleep: %v, want %v", got, want)
	}
}

// signal sends a signal to a container's first process, and checks the answer.
func (a *agent) signal(id string, signal unix.Signal, want codes.Code) {
	a.t.Helper()
	_, err := a.client.SignalProcess(a.t.Context(), &protocol.SignalProcessRequest{ContainerId: id, Signal: uint32(signal)})
	if status.Code(err) != want {
		a.t.Errorf("%v: %v, want %v", signal, err, want)
	}
}

// execRefused asks for a process that the container is not to get.
func (a *agent) execRefused(id string) error {
	a.t.Helper()
	document, err := json.Marshal(specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		a.t.Fatal(err)
	}
	_, err = a.client.ExecProcess(a.t.Context(), &protocol.ExecProcessRequest{ContainerId: id, ProcessId: "refused", ProcessJson: document})
	return err
}

// The first container of a pod, whose program does nothing, has no process until
// another container joins its PID namespace.
func TestContainerWithoutProcess(t *testing.T) {
	a := startAgent(t)
	if _, err := a.client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "pod", Hostname: "early"}); err != nil {
		t.Fatal(err)
	}
	s := a.pausing("first")
	a.start("first")
	request := &protocol.ContainerRequest{ContainerId: "first"}
	if _, err := a.client.PauseContainer(t.Context(), request); err != nil {
		t.Error(err)
	}
	a.signal("first", unix.Signal(0), codes.OK)
	if _, err := a.client.ResumeContainer(t.Context(), request); err != nil {
		t.Error(err)
	}
	_, err := a.client.UpdateContainer(t.Context(), &protocol.UpdateContainerRequest{
		ContainerId: "first", ResourcesJson: []byte(`{"pids":{"limit":77}}`),
	})
	if err != nil {
		t.Error(err)
	}
	if answer, err := a.client.StatsContainer(t.Context(), request); err != nil || !strings.Contains(string(answer.GetStatsJson()), `"cpu"`) {
		t.Errorf("statistics: %s, %v", answer.GetStatsJson(), err)
	}
	theirs := map[specs.LinuxNamespaceType]string{
		specs.IPCNamespace: protocol.ContainerNamespace("first"), specs.UTSNamespace: protocol.ContainerNamespace("first"),
	}
	const script = "hostname; tr '\\0' ' ' < /proc/1/cmdline; echo; for n in ipc uts; do readlink /proc/self/ns/$n; done"
	spec := join(newSpec(t, "sh", "-c", script), theirs)
	spec.Hostname = ""
	_, second := a.run("second", spec)
	apart := strings.Split(second.stdout.String(), "\n")
	a.asleep("first", true)

	theirs[specs.PIDNamespace] = protocol.ContainerNamespace("first")
	spec = join(newSpec(t, "sh", "-c", script), theirs)
	spec.Hostname = ""
	_, third := a.run("third", spec)
	joined := strings.Split(third.stdout.String(), "\n")
	if len(apart) < 4 || len(joined) < 4 || apart[0] != "inside" || joined[0] != "inside" || !strings.HasPrefix(joined[1], "sleep 1000") ||
		apart[2] != joined[2] || apart[3] != joined[3] {
		t.Errorf("containers see %q, and with its processes %q; %s", apart, joined, third.stderr.String())
	}
	a.asleep("first", false)
	if limit, err := os.ReadFile("/sys/fs/cgroup/kata/first/pids.max"); err != nil || string(limit) != "77\n" {
		t.Errorf("the updated limit is %q, %v", limit, err)
	}
	a.signal("first", unix.SIGTERM, codes.OK) // sleep as a first process ignores it
	a.signal("first", unix.SIGKILL, codes.OK)
	if exit := a.wait("first", ""); exit.GetExitCode() != 137 || exit.GetSignal() != 9 {
		t.Errorf("exit %v", exit)
	}
	s.readers.Wait()
	a.remove("first")
	assertNothingLeft(t)
}

func TestEndWithoutProcess(t *testing.T) {
	a := startAgent(t)
	for _, test := range []struct {
		signal       unix.Signal
		code, number uint32
	}{{unix.SIGTERM, 0, 0}, {unix.SIGINT, 0, 0}, {unix.SIGKILL, 137, 9}} {
		s := a.pausing("c")
		a.start("c")
		a.signal("c", unix.SIGCHLD, codes.OK)
		a.signal("c", test.signal, codes.OK)
		if exit := a.wait("c", ""); exit.GetExitCode() != test.code || exit.GetSignal() != test.number || exit.GetExitedUnixNanos() == 0 {
			t.Errorf("%v: exit %v", test.signal, exit)
		}
		s.readers.Wait() // its streams have ended
		a.signal("c", test.signal, codes.FailedPrecondition)
		_, err := a.client.SignalProcess(t.Context(), &protocol.SignalProcessRequest{ContainerId: "c", Signal: uint32(unix.SIGTERM), All: true})
		if err != nil {
			t.Errorf("a signal for all of no processes: %v", err)
		}
		if err := a.execRefused("c"); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("exec after the end: %v", err)
		}
		a.asleep("c", true)
		a.remove("c")
	}
	s := a.pausing("c")
	a.remove("c") // kills
	s.readers.Wait()
	assertNothingLeft(t)
}

// What needs the process has it, in the state that it would be in.
func TestNeededProcess(t *testing.T) {
	a := startAgent(t)
	request := &protocol.ContainerRequest{ContainerId: "c"}
	list := func() string {
		answer, err := a.client.ListProcesses(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		var commands []string
		for _, p := range answer.GetProcesses() {
			commands = append(commands, p.GetCommand())
		}
		return strings.Join(commands, ",")
	}
	end := func(s *streams) {
		a.signal("c", unix.SIGKILL, codes.OK)
		a.wait("c", "")
		s.readers.Wait()
		a.remove("c")
	}

	s := a.pausing("c")
	a.start("c")
	if got := list(); !strings.Contains(got, "sleep") {
		t.Errorf("processes: %q", got)
	}
	end(s)

	s = a.pausing("c") // and is not started
	if got := list(); !strings.Contains(got, "init") {
		t.Errorf("processes before the start: %q", got)
	}
	a.start("c")
	if got := list(); !strings.Contains(got, "sleep") {
		t.Errorf("processes after the start: %q", got)
	}
	end(s)

	s = a.pausing("c")
	a.start("c")
	if _, got := a.exec("c", "e", false, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"); !strings.HasSuffix(got, "sleep 1000 ") {
		t.Errorf("an exec sees %q", got)
	}
	end(s)

	s = a.pausing("c")
	a.start("c")
	if _, err := a.client.PauseContainer(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if err := a.execRefused("c"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("exec in a paused container: %v", err)
	}
	if frozen, err := os.ReadFile("/sys/fs/cgroup/kata/c/cgroup.freeze"); err != nil || string(frozen) != "1\n" {
		t.Errorf("frozen: %q, %v", frozen, err)
	}
	if _, err := a.client.ResumeContainer(t.Context(), request); err != nil {
		t.Error(err)
	}
	end(s)
	assertNothingLeft(t)
}
