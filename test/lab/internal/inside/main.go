// Command inside runs on the lab's machine, as a service of its systemd: it
// makes the machine ready, runs the test programs of the plan, tells their
// output and exit codes, and ends. The service's end powers the machine off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/test/lab/internal/wire"
)

func main() {
	port, err := os.OpenFile(filepath.Join("/dev/virtio-ports", wire.Port), os.O_RDWR, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "open the port to the outside:", err)
		os.Exit(1)
	}
	out := &messages{encoder: json.NewEncoder(port)}
	go func() {
		if _, err := io.Copy(io.Discard, port); err != nil { // wire.NudgeEvery
			fmt.Fprintln(os.Stderr, "be nudged by the outside:", err)
		}
	}()
	go func() {
		for range time.Tick(wire.AliveEvery) {
			out.send(wire.Message{Alive: true})
		}
	}()
	if err := follow(out); err != nil {
		out.send(wire.Message{Failure: err.Error()})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// messages sends; it is safe for concurrent use.
type messages struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (m *messages) send(message wire.Message) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if err := m.encoder.Encode(message); err != nil {
		fmt.Fprintln(os.Stderr, "tell the outside:", err)
	}
}

func follow(out *messages) error {
	data, err := os.ReadFile(filepath.Join(wire.Mounted, wire.PlanFile))
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	var plan wire.Plan
	if err := json.Unmarshal(data, &plan); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	if err := prepare(plan.Tree); err != nil {
		return err
	}
	out.send(wire.Message{Ready: facts()})
	for i, run := range plan.Runs {
		code, err := execute(run, func(output []byte) { out.send(wire.Message{Run: i, Output: output}) })
		if err != nil {
			return fmt.Errorf("run %s: %w", run.Name, err)
		}
		out.send(wire.Message{Run: i, Exit: &code})
	}
	return nil
}

// configuration is the runtime's where no test gives it another one.
const configuration = "/etc/kata-containers/configuration.toml"

// prepare makes of a machine that has booted one that tests can use.
func prepare(tree string) error {
	for _, args := range [][]string{
		{"modprobe", "--all", "kvm_amd", "vhost_vsock", "vhost_net", "tun"},
		{"mkdir", "-p", tree},
		{"mount", "-t", "9p", "-o", "ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000", wire.Tree, tree},
		// Guests boot from these files: by way of the share each boot takes seconds more.
		{"mkdir", "-p", "/var/lib/lab"},
		{"cp", "-a", filepath.Join(tree, "bin"), filepath.Join(tree, "share"), "/var/lib/lab/"},
		{"mount", "--bind", "/var/lib/lab/bin", filepath.Join(tree, "bin")},
		{"mount", "--bind", "/var/lib/lab/share", filepath.Join(tree, "share")},
	} {
		command := exec.Command(args[0], args[1:]...) //nolint:noctx // the machine's end ends it
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("prepare the machine: %s: %w: %s", strings.Join(args, " "), err, output)
		}
	}
	if err := os.MkdirAll(filepath.Dir(configuration), 0o755); err != nil {
		return fmt.Errorf("prepare the machine: %w", err)
	}
	// Nothing can be said of how long an emulated machine's guest takes, but the
	// runtime is to give up and say why before the tests (harness.Patience) do.
	if err := os.WriteFile(configuration, []byte("[agent.kata]\ndial_timeout = 500\n"), 0o644); err != nil {
		return fmt.Errorf("prepare the machine: %w", err)
	}
	return nil
}

// facts says in a line what is special about the machine.
func facts() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // does not fail
	var found []string
	for _, path := range []string{"/dev/kvm", "/dev/vhost-vsock", "/dev/vhost-net", "/sys/fs/cgroup/cgroup.controllers", "/run/systemd/system"} {
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		}
	}
	return fmt.Sprintf("Linux %s with %s", unix.ByteSliceToString(u.Release[:]), strings.Join(found, ", "))
}

// execute runs a test program and passes its output on.
func execute(run wire.Run, output func([]byte)) (code int, err error) {
	command := exec.Command(filepath.Join(wire.Mounted, run.Program), run.Args...) //nolint:noctx // the machine's end ends it
	command.Dir = run.Directory
	command.Env = append(os.Environ(), run.Env...)
	stream := writer(output)
	command.Stdout, command.Stderr = stream, stream
	err = command.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

type writer func([]byte)

func (w writer) Write(data []byte) (int, error) {
	w(data)
	return len(data), nil
}
