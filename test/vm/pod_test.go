//go:build vm

package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// sandbox makes a specification that of a pod's first container, as
// containerd's CRI plugin does.
func sandbox(spec *specs.Spec) *specs.Spec {
	spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	return spec
}

// member makes a specification that of a container of the pod, which shares
// these namespaces with the sandbox.
func member(spec *specs.Spec, pod detached, shared ...specs.LinuxNamespaceType) *specs.Spec {
	spec.Annotations = map[string]string{
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pod.id,
	}
	spec.Hostname = ""
	for _, kind := range shared {
		name := string(kind)
		if kind == specs.NetworkNamespace {
			name = "net"
		}
		bundle.Namespace(spec, kind).Path = fmt.Sprintf("/proc/%d/ns/%s", pod.pid, name)
	}
	return spec
}

// podNamespaces are what containers of a pod share by default.
func podNamespaces() []specs.LinuxNamespaceType {
	return []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
}

// memory mounts a tmpfs below the test's own directory, for the test's time.
func memory(h *harness.Host, name, options string) string {
	h.T.Helper()
	dir := h.File(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.T.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			h.T.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// bindMount replaces the mount at a destination by a bind.
func bindMount(spec *specs.Spec, source, destination string) {
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}})
}

// namedUTS makes a UTS namespace with a host name, for the test's time.
func namedUTS(t *testing.T, name string) (path string) {
	t.Helper()
	holder := exec.Command("sh", "-c", `hostname "$0" && echo && exec cat`, name) // ends with its input
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		if err := holder.Wait(); err != nil {
			t.Errorf("the namespace's holder: %v", err)
		}
	})
	if _, err := io.ReadFull(output, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/ns/uts", holder.Process.Pid)
}

// TestPod shares one machine: a sandbox, a container with processes of its own
// and one with the sandbox's processes.
func TestPod(t *testing.T) {
	h := harness.New(t)
	shm := memory(h, "pod/shm", "size=16m,mode=1777")
	cache := memory(h, "pod/kubernetes.io~empty-dir/cache", "size=8m,mode=0777")
	program := func(script string) *specs.Spec {
		spec := bundle.Spec("/bin/sh", "-c", script)
		bindMount(spec, shm, "/dev/shm")
		bindMount(spec, cache, "/cache")
		return spec
	}
	spec := sandbox(program(": pause; " + waitForTerm))
	// As CRI-O has it: a namespace that was made before, and has the pod's name.
	spec.Hostname = ""
	bundle.Namespace(spec, specs.UTSNamespace).Path = namedUTS(t, "pod")
	pod := detach(h, spec)
	spec = member(program(waitForTerm), pod, podNamespaces()...)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64)}
	*spec.Linux.Resources.Memory.Limit = 64 << 20
	own := detach(h, spec)
	sharing := detach(h, member(program(waitForTerm), pod, append(podNamespaces(), specs.PIDNamespace)...))
	all := []detached{pod, own, sharing}
	for _, c := range all {
		h.WaitText(c.output, "ready")
	}
	in := func(c detached, script string) string { return h.Must("exec", c.id, "/bin/sh", "-c", script) }

	t.Run("namespaces", func(t *testing.T) {
		kinds := []string{"net", "ipc", "uts", "pid", "mnt"}
		guest := func(c detached) []string {
			return strings.Fields(in(c, "cd /proc/self/ns; for n in "+strings.Join(kinds, " ")+"; do readlink $n; done"))
		}
		host := func(c detached) []string {
			var links []string
			for _, kind := range kinds {
				link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.pid, kind))
				if err != nil {
					t.Error(err)
				}
				links = append(links, link)
			}
			return links
		}
		for where, links := range map[string]func(detached) []string{"guest": guest, "host": host} {
			sandbox := links(pod)
			for i, want := range [][]bool{{true, true, true, false, false}, {true, true, true, true, false}} {
				got := links([]detached{own, sharing}[i])
				if len(got) != len(kinds) || len(sandbox) != len(kinds) {
					t.Fatalf("%s: namespaces %q and the sandbox's %q", where, got, sandbox)
				}
				for k, kind := range kinds {
					if (got[k] == sandbox[k]) != want[k] {
						t.Errorf("%s: %s namespace of container %d: %s, the sandbox's %s", where, kind, i+1, got[k], sandbox[k])
					}
				}
			}
		}
		for _, c := range all {
			if name := in(c, "hostname"); name != "pod\n" {
				t.Errorf("host name %q", name)
			}
		}
		in(own, "touch /dev/mqueue/queue")
		if queues := in(sharing, "ls /dev/mqueue"); queues != "queue\n" {
			t.Errorf("message queues in another container: %q", queues)
		}
	})
	t.Run("processes", func(t *testing.T) {
		if first := in(sharing, "cat /proc/1/cmdline"); !strings.Contains(first, "pause") {
			t.Errorf("process 1 in the container that shares the sandbox's: %q", first)
		}
		for i, c := range all {
			if table := h.Must("ps", c.id); strings.Contains(table, "pause") != (i == 0) {
				t.Errorf("ps of container %d: %s", i, table)
			}
			var pids []int
			if decode(h, h.Must("ps", "--format", "json", c.id), &pids); !slices.Equal(pids, []int{c.pid}) {
				t.Errorf("ps of container %d: %v, want %d", i, pids, c.pid)
			}
			if s := stateOf(h, c.id); s.Status != "running" || s.PID != c.pid || s.Bundle != c.bundle {
				t.Errorf("state of container %d: %+v", i, s)
			}
		}
		if seen := in(own, "ps"); strings.Contains(seen, "pause") {
			t.Errorf("the container with its own processes sees %s", seen)
		}
		if ids := strings.Fields(h.Must("list", "-q")); len(ids) != 3 {
			t.Errorf("list: %q", ids)
		}
	})
	t.Run("files and limits", func(t *testing.T) {
		in(own, "echo own > /tmp/own; echo memory > /dev/shm/file; echo cached > /cache/file")
		if got := in(sharing, "cat /dev/shm/file /cache/file; ls /tmp"); got != "memory\ncached\n" {
			t.Errorf("another container sees %q", got)
		}
		if got := in(pod, "df -m /dev/shm /cache | awk '{print $2}' | tail -n 2"); got != "16\n8\n" {
			t.Errorf("sizes of the memory volumes: %q", got)
		}
		for _, dir := range []string{shm, cache} {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("the guest's memory is on the host: %v, %v", entries, err)
			}
		}
		if own, other := in(own, "cat /sys/fs/cgroup/memory.max"), in(sharing, "cat /sys/fs/cgroup/memory.max"); own != "67108864\n" || other != "max\n" {
			t.Errorf("memory limits %q, %q", own, other)
		}
	})
	t.Run("containers that come and go", func(t *testing.T) {
		spec := member(bundle.Spec("/bin/sh", "-c", "cat /cache/file; hostname; exit 3"), pod, podNamespaces()...)
		bindMount(spec, cache, "/cache")
		if result := h.Run("run", "-b", h.Bundle(spec), h.ID()); result.Code != 3 || result.Stdout != "cached\npod\n" {
			t.Errorf("exit code %d, %q, %q", result.Code, result.Stdout, result.Stderr)
		}
		// One with a namespace of its own begins with its caller's name.
		name, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		spec = member(bundle.Spec("/bin/hostname"), pod, specs.NetworkNamespace, specs.IPCNamespace)
		if got := h.Must("run", "-b", h.Bundle(spec), h.ID()); got != name+"\n" {
			t.Errorf("host name %q, want %q", got, name)
		}
		spec = member(bundle.Spec("/bin/nothing"), pod, podNamespaces()...)
		id := h.ID()
		if result := h.Run("run", "-b", h.Bundle(spec), id); result.Code != 1 || !strings.Contains(result.Stderr, "/bin/nothing") {
			t.Errorf("missing program: exit code %d, %q", result.Code, result.Stderr)
		}
		if result := h.Run("state", id); !strings.Contains(result.Stderr, "does not exist") {
			t.Errorf("after a failed run: %q, %q", result.Stdout, result.Stderr)
		}
		// An id that is used again at once is another container's: what the guest
		// remembers of the former does not count.
		for range 6 {
			spec := member(bundle.Spec("/bin/sh", "-c", "mount | grep -c mqueue"), pod, podNamespaces()...)
			if got := h.Must("run", "-b", h.Bundle(spec), id); got != "1\n" {
				t.Errorf("of the same id: %q", got)
			}
		}
		// A command that is killed takes its container along, and nothing else.
		command := h.Command("run", "-b", h.Bundle(member(bundle.Spec("/bin/sh", "-c", waitForTerm), pod, podNamespaces()...)), id)
		stdout, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		h.Expect(stdout, "ready\n")
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		h.Wait(command)
		h.Must("delete", "--force", id) // waits for the supervisor, which may be at it
		if ids := strings.Fields(h.Must("list", "-q")); len(ids) != 3 {
			t.Errorf("list: %q", ids)
		}
	})
	t.Run("the end in a shared PID namespace", func(t *testing.T) {
		c := detach(h, member(program(waitForTerm), pod, append(podNamespaces(), specs.PIDNamespace)...))
		h.WaitText(c.output, "ready")
		other := h.Command("exec", c.id, "/bin/sh", "-c", "echo ready; exec sleep 55555")
		stdout, err := other.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		h.Expect(stdout, "ready\n")
		h.Must("kill", c.id)
		if code := h.Reap(c.pid); code != 5 {
			t.Errorf("exit code %d, want 5", code)
		}
		if code := h.Wait(other); code != 128+int(unix.SIGKILL) {
			t.Errorf("exec: exit code %d, want 137", code)
		}
		h.Must("delete", c.id)
	})
	t.Run("refusals", func(t *testing.T) {
		strangers := namedUTS(t, "stranger")
		for _, c := range []struct {
			what string
			spec func(*specs.Spec)
			text string
		}{
			{"a container as sandbox", func(s *specs.Spec) { s.Annotations["io.kubernetes.cri.sandbox-id"] = own.id }, "no sandbox"},
			{"another's namespace", func(s *specs.Spec) { bundle.Namespace(s, specs.UTSNamespace).Path = strangers }, "uts"},
			{"a network of its own", func(s *specs.Spec) { bundle.Namespace(s, specs.NetworkNamespace).Path = "" }, "network"},
		} {
			spec := member(bundle.Spec("/bin/true"), pod, podNamespaces()...)
			c.spec(spec)
			if result := h.Run("run", "-b", h.Bundle(spec), h.ID()); result.Code != 1 || !strings.Contains(result.Stderr, c.text) {
				t.Errorf("%s: exit code %d, %q", c.what, result.Code, result.Stderr)
			}
		}
	})

	// The sandbox ends: with it the container that shares its processes, and
	// not the other one, in which the machine lives on.
	h.Must("kill", pod.id, "KILL")
	for _, c := range []detached{sharing, pod} { // its stand-in ends after those in its PID namespace
		if code := h.Reap(c.pid); code != 128+int(unix.SIGKILL) {
			t.Errorf("exit code %d", code)
		}
	}
	h.Must("delete", pod.id)
	if result := h.Run("state", pod.id); !strings.Contains(result.Stderr, "does not exist") {
		t.Errorf("state of the deleted sandbox: %q, %q", result.Stdout, result.Stderr)
	}
	if result := h.Run("run", "-b", pod.bundle, pod.id); result.Code != 1 || !strings.Contains(result.Stderr, "exists") {
		t.Errorf("a pod of the same name: exit code %d, %q", result.Code, result.Stderr)
	}
	if ids := strings.Fields(h.Must("list", "-q")); len(ids) != 2 || slices.Contains(ids, pod.id) {
		t.Errorf("list without the sandbox: %q", ids)
	}
	if result := h.Run("run", "-b", own.bundle, h.ID()); result.Code != 1 || !strings.Contains(result.Stderr, pod.id) {
		t.Errorf("joining after the sandbox's deletion: exit code %d, %q", result.Code, result.Stderr)
	}
	if got := in(own, "hostname; cat /cache/file"); got != "pod\ncached\n" {
		t.Errorf("without its sandbox the container sees %q", got)
	}
	h.Must("delete", sharing.id)
	h.Must("kill", own.id)
	if code := h.Reap(own.pid); code != 5 {
		t.Errorf("exit code %d, want 5", code)
	}
	h.Must("delete", own.id)
}

func TestPodThatDoesNotExist(t *testing.T) {
	h := harness.New(t)
	spec := member(bundle.Spec("/bin/true"), detached{id: "no-such-pod"})
	wantFailure(h, []string{"prepare", `"no-such-pod"`, "does not exist"}, "run", "-b", h.Bundle(spec), h.ID())
}

// The state of each container is true, and each can be deleted, whatever is
// left of the pod.
func TestPodsSupervisorIsKilled(t *testing.T) {
	for _, withSandbox := range []bool{true, false} {
		t.Run(fmt.Sprintf("sandbox %v", withSandbox), func(t *testing.T) {
			h := harness.New(t)
			pod := detach(h, sandbox(bundle.Spec("/bin/sleep", "100000")))
			all := []detached{pod}
			for range 2 {
				all = append(all, detach(h, member(bundle.Spec("/bin/sleep", "100000"), pod, podNamespaces()...)))
			}
			supervisor := supervisorOf(h, pod)
			if !withSandbox {
				h.Must("delete", "--force", pod.id)
				h.Reap(pod.pid)
				all = all[1:]
			}
			if err := unix.Kill(supervisor, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			h.WaitExit(supervisor)
			for _, c := range all {
				if s := stateOf(h, c.id); s.Status != "stopped" {
					t.Errorf("status %s", s.Status)
				}
			}
			for _, c := range all {
				if code := h.Reap(c.pid); code != 128+int(unix.SIGKILL) {
					t.Errorf("exit code %d of a stand-in", code)
				}
				h.Must("delete", "--force", c.id)
			}
		})
	}
}

// supervisorOf reads the pid of a container's supervisor from its state file.
func supervisorOf(h *harness.Host, c detached) int {
	h.T.Helper()
	data, err := os.ReadFile(filepath.Join(h.Root, c.id, "kata.json"))
	if err != nil {
		h.T.Fatal(err)
	}
	var state struct{ SupervisorPid int }
	if err := json.Unmarshal(data, &state); err != nil {
		h.T.Fatal(err)
	}
	return state.SupervisorPid
}
