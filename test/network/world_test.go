//go:build vm

package network

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

const (
	runtimeVariable = "KATA_TEST_RUNTIME"
	fullVariable    = "KATA_TEST_FULL"
)

// amount is the first number, or the second one in the full test.
func amount(short, full int) int {
	if os.Getenv(fullVariable) != "" {
		return full
	}
	return short
}

const mebibyte = 1 << 20

// port is where a pod's server listens.
const port = "7000"

// world is what one test makes: namespaces, networks and pods. The test defers
// its close.
type world struct {
	t    *testing.T
	h    *harness.Host
	peer string // the program's path
	undo []func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	h := harness.New(t)
	if name := os.Getenv(runtimeVariable); name != "" {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		h.Program = path
	}
	w := &world{t: t, h: h, peer: h.File("peer")}
	if err := program.Build(t.Context(), w.peer, "kata-runtime/test/network/internal/peer"); err != nil {
		t.Fatal(err)
	}
	return w
}

// atEnd adds to what close does, the last one first.
func (w *world) atEnd(f func()) { w.undo = append(w.undo, f) }

func (w *world) close() {
	for _, f := range slices.Backward(w.undo) {
		f()
	}
	w.undo = nil
}

// command runs a program to its end and returns its output. It may run after
// the test's context has ended.
func (w *world) command(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), harness.Patience)
	defer cancel()
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Stdin = strings.NewReader(input)
	var output, complaint bytes.Buffer
	command.Stdout, command.Stderr = &output, &complaint
	if err := command.Run(); err != nil {
		return output.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	return output.String(), nil
}

func (w *world) must(input string, args ...string) string {
	w.t.Helper()
	output, err := w.command(input, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return output
}

// namespace makes a network namespace, with loopback up, and returns the path
// that holds it.
func (w *world) namespace(name string) string {
	w.t.Helper()
	path := w.h.File("ns-" + name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.must("", "unshare", "--net="+path, "true")
	w.atEnd(func() {
		// What has its other end elsewhere goes at once only when it is told to.
		_, _ = w.command("", "nsenter", "--net="+path, "sh", "-c", `for link in /proc/sys/net/ipv4/conf/*; do ip link delete "${link##*/}"; done`)
		if err := unix.Unmount(path, 0); err != nil && err != unix.EINVAL {
			w.t.Errorf("unmount %s: %v", path, err)
		}
	})
	w.ip(path, "link set lo up")
	return path
}

// ip runs lines of ip(8) in a namespace, or in the host's where ns is empty.
// A line may contain "#" and words after it.
func (w *world) ip(ns, script string) {
	w.t.Helper()
	w.must(script, enter(ns, "ip", "-batch", "-")...)
}

func enter(ns string, args ...string) []string {
	if ns == "" {
		return args
	}
	return append([]string{"nsenter", "--net=" + ns}, args...)
}

// place is where peer can run.
type place struct {
	w    *world
	name string
	run  func(args ...string) (string, error)
}

// inside is a network namespace, or the host's.
func (w *world) inside(name, ns string) place {
	return place{w, name, func(args ...string) (string, error) {
		return w.command("", enter(ns, append([]string{w.peer}, args...)...)...)
	}}
}

// try runs peer, which has to succeed and to print the text.
func (p place) try(t *testing.T, want string, args ...string) {
	t.Helper()
	output, err := p.run(args...)
	if err != nil || output != want {
		t.Errorf("on %s: peer %s: %q, want %q, %v", p.name, strings.Join(args, " "), output, want, err)
	}
}

// get runs peer, which has to succeed, and returns what it prints.
func (p place) get(args ...string) string {
	p.w.t.Helper()
	output, err := p.run(args...)
	if err != nil {
		p.w.t.Fatalf("on %s: %v", p.name, err)
	}
	return output
}

// serve starts a server in a namespace, or the host's.
func (w *world) serve(ns string) {
	w.t.Helper()
	args := enter(ns, w.peer, "serve", port)
	command := exec.Command(args[0], args[1:]...) // ended below
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.atEnd(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // killed
	})
	w.h.Expect(stdout, "ready\n")
}

// pod is a container that serves on port, in a network namespace.
type pod struct {
	place
	id  string
	pid string // file
}

// spec is a pod's configuration.
func (w *world) spec(ns string) *specs.Spec {
	spec := bundle.Spec("/bin/peer", "serve", port)
	spec.Process.Capabilities.Inheritable = nil
	bundle.Namespace(spec, specs.NetworkNamespace).Path = ns
	return spec
}

// bundle makes a pod's bundle.
func (w *world) bundle(spec *specs.Spec) string {
	w.t.Helper()
	dir := w.h.Bundle(spec)
	program, err := os.ReadFile(w.peer)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs", "bin", "peer"), program, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// create creates a pod's container, without starting it.
func (w *world) create(name, ns string) *pod {
	w.t.Helper()
	p := &pod{id: w.h.ID()}
	p.pid = w.h.File(p.id + ".pid")
	p.place = place{w, name, func(args ...string) (string, error) {
		result := w.h.Run(append([]string{"exec", p.id, "/bin/peer"}, args...)...)
		if result.Code != 0 || result.Stderr != "" {
			return result.Stdout, fmt.Errorf("exit code %d: %s", result.Code, result.Stderr)
		}
		return result.Stdout, nil
	}}
	output, err := os.Create(p.output())
	if err != nil {
		w.t.Fatal(err)
	}
	defer output.Close()
	command := w.h.Command("create", "--pid-file", p.pid, "--bundle", w.bundle(w.spec(ns)), p.id)
	command.Stdout, command.Stderr = output, output
	w.atEnd(p.remove)
	if err := command.Run(); err != nil {
		text, _ := os.ReadFile(p.output())
		w.t.Fatalf("create %s: %v: %s", name, err, text)
	}
	return p
}

func (p *pod) output() string { return p.w.h.File(p.id + ".out") }

// start lets the pod serve.
func (p *pod) start() {
	p.w.t.Helper()
	p.w.h.Must("start", p.id)
	p.w.h.WaitText(p.output(), "ready\n")
}

func (w *world) pod(name, ns string) *pod {
	w.t.Helper()
	p := w.create(name, ns)
	p.start()
	return p
}

// remove deletes the pod, if it is there.
func (p *pod) remove() {
	if p.id == "" {
		return
	}
	args := append([]string{p.w.h.Program, "--root", p.w.h.Root}, p.w.h.Flags...)
	if args[0] == "" {
		args[0] = filepath.Join(harness.Repository(p.w.t), "bin", "kata-runtime")
	}
	if output, err := p.w.command("", append(args, "delete", "--force", p.id)...); err != nil {
		p.w.t.Errorf("%v %s", err, output)
	}
	p.id = ""
}

// kata tells whether the runtime is kata-runtime.
func (w *world) kata() bool { return w.h.Program == "" }
