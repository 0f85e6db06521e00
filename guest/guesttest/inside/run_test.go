//go:build inguest

package inside

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// newSpec returns the specification of a container on a fresh root file
// system that runs args.
func newSpec(t *testing.T, args ...string) *specs.Spec {
	t.Helper()
	root := t.TempDir()
	upper := filepath.Join(root, "rootfs")
	if err := os.MkdirAll(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(baseRoot, upper); err != nil {
		t.Fatal(err)
	}
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: upper},
		Hostname: "inside",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/host/path",
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
		},
	}
}

func copyTree(from, to string) error {
	return os.CopyFS(to, os.DirFS(from))
}

// streams collects what a process prints.
type streams struct {
	stdin          net.Conn
	stdout, stderr bytes.Buffer
	readers        sync.WaitGroup
}

func (a *agent) connect(container, process string, stdin, terminal bool) *streams {
	s := &streams{}
	if stdin {
		s.stdin = a.open(protocol.StreamHeader{Container: container, Process: process, Stream: protocol.Stdin})
	}
	s.collect(&s.stdout, a.open(protocol.StreamHeader{Container: container, Process: process, Stream: protocol.Stdout}))
	if !terminal {
		s.collect(&s.stderr, a.open(protocol.StreamHeader{Container: container, Process: process, Stream: protocol.Stderr}))
	}
	return s
}

func (s *streams) collect(buffer *bytes.Buffer, conn net.Conn) {
	s.readers.Go(func() {
		_, _ = io.Copy(buffer, conn)
		conn.Close()
	})
}

// create makes a container with output streams, and stdin if asked.
func (a *agent) create(id string, spec *specs.Spec, stdin bool) (*streams, error) {
	a.t.Helper()
	document, err := json.Marshal(spec)
	if err != nil {
		a.t.Fatal(err)
	}
	s := a.connect(id, "", stdin, spec.Process.Terminal)
	_, err = a.client.CreateContainer(a.t.Context(), &protocol.CreateContainerRequest{
		ContainerId: id, SpecJson: document, Stdin: stdin, Stdout: true, Stderr: !spec.Process.Terminal,
	})
	return s, err
}

func (a *agent) start(id string) {
	a.t.Helper()
	if _, err := a.client.StartContainer(a.t.Context(), &protocol.ContainerRequest{ContainerId: id}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) wait(id, process string) *protocol.WaitProcessResponse {
	a.t.Helper()
	exit, err := a.client.WaitProcess(a.t.Context(), &protocol.ProcessRequest{ContainerId: id, ProcessId: process})
	if err != nil {
		a.t.Fatal(err)
	}
	return exit
}

func (a *agent) remove(id string) {
	a.t.Helper()
	if _, err := a.client.RemoveContainer(a.t.Context(), &protocol.ContainerRequest{ContainerId: id}); err != nil {
		a.t.Fatal(err)
	}
}

// run runs a container to its end.
func (a *agent) run(id string, spec *specs.Spec) (*protocol.WaitProcessResponse, *streams) {
	a.t.Helper()
	s, err := a.create(id, spec, false)
	if err != nil {
		a.t.Fatal(err)
	}
	a.start(id)
	exit := a.wait(id, "")
	s.readers.Wait()
	a.remove(id)
	return exit, s
}

func TestRunReportsOutputAndExitCode(t *testing.T) {
	a := startAgent(t)
	exit, s := a.run("c1", newSpec(t, "sh", "-c", "echo out; echo err >&2; exit 42"))
	if exit.GetExitCode() != 42 || s.stdout.String() != "out\n" || s.stderr.String() != "err\n" {
		t.Fatalf("exit %v, stdout %q, stderr %q", exit, s.stdout.String(), s.stderr.String())
	}
}

func TestSignalledExit(t *testing.T) {
	a := startAgent(t)
	s, err := a.create("c1", newSpec(t, "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"), false)
	if err != nil {
		t.Fatal(err)
	}
	a.start("c1")
	if _, err := a.client.SignalProcess(t.Context(), &protocol.SignalProcessRequest{ContainerId: "c1", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	exit := a.wait("c1", "")
	if exit.GetExitCode() != 137 || exit.GetSignal() != 9 {
		t.Fatalf("exit %v", exit)
	}
	s.readers.Wait()
	a.remove("c1")
}

func TestStdin(t *testing.T) {
	a := startAgent(t)
	s, err := a.create("c1", newSpec(t, "cat"), true)
	if err != nil {
		t.Fatal(err)
	}
	a.start("c1")
	text := strings.Repeat("0123456789abcdef", 1<<16)
	if _, err := io.WriteString(s.stdin, text); err != nil {
		t.Fatal(err)
	}
	s.stdin.Close()
	if exit := a.wait("c1", ""); exit.GetExitCode() != 0 {
		t.Fatalf("exit %v", exit)
	}
	s.readers.Wait()
	if s.stdout.String() != text {
		t.Fatalf("%d bytes came back, sent %d", s.stdout.Len(), len(text))
	}
}

func TestProgramThatDoesNotExist(t *testing.T) {
	a := startAgent(t)
	for args, want := range map[string]string{
		"nope":      "executable file not found in $PATH",
		"/bin/nope": "no such file or directory",
		"/etc":      "permission denied",
	} {
		s, err := a.create("c1", newSpec(t, args), false)
		if err == nil || !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("create with %q: %v, want %q", args, err, want)
		}
		s.readers.Wait()
		if _, err := os.Stat("/sys/fs/cgroup/kata/c1"); err == nil {
			t.Errorf("%q left its cgroup", args)
		}
	}
}
