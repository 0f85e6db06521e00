package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
)

// pod is a running sandbox that other containers join, of either runtime. To
// runc it is a container whose namespaces others join.
type pod struct {
	run runtime
	id  string
	pid int
	// idle and brief are bundles of members: one stays, the other ends at once.
	idle, brief string
}

// newPod starts a sandbox. flags are the runtime's, before the command.
func (b *bench) newPod(ctx context.Context, run runtime, flags ...string) (_ *pod, err error) {
	spec := bundle.Spec("/bin/sleep", "100000")
	spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	dir, err := b.bundleOf(spec)
	if err != nil {
		return nil, err
	}
	p := &pod{run: run, id: b.id()}
	if _, err := b.quiet(run(ctx, append(flags, "run", "--detach", "-b", dir, p.id)...)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.remove(ctx, p.id))
		}
	}()
	if p.pid, err = p.pidOf(ctx, p.id); err != nil {
		return nil, err
	}
	if p.idle, err = b.member(p, "/bin/sleep", "100000"); err != nil {
		return nil, err
	}
	if p.brief, err = b.member(p, "/bin/true"); err != nil {
		return nil, err
	}
	return p, nil
}

// member makes a bundle of a container that shares the pod's namespaces as
// containers of a pod do.
func (b *bench) member(p *pod, args ...string) (string, error) {
	spec := bundle.Spec(args...)
	spec.Annotations = map[string]string{
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": p.id,
	}
	spec.Hostname = "" // the sandbox has set it
	for kind, name := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	} {
		bundle.Namespace(spec, kind).Path = fmt.Sprintf("/proc/%d/ns/%s", p.pid, name)
	}
	return b.bundleOf(spec)
}

// pidOf returns the process that stands for a container of the pod.
func (p *pod) pidOf(ctx context.Context, id string) (int, error) {
	text, err := output(p.run(ctx, "state", id))
	if err != nil {
		return 0, err
	}
	var state struct{ PID int }
	if err := json.Unmarshal([]byte(text), &state); err != nil {
		return 0, fmt.Errorf("state of %s: %w", id, err)
	}
	return state.PID, nil
}

// remove removes a container of the pod, also after ctx has ended.
func (p *pod) remove(ctx context.Context, id string) error {
	_, err := output(p.run(context.WithoutCancel(ctx), "delete", "--force", id))
	return err
}

// quiet runs a command that has to succeed and returns how long it took. Its
// output is no pipe, because a container may inherit it and live on.
func (b *bench) quiet(command *exec.Cmd) (took time.Duration, err error) {
	stderr, err := os.CreateTemp(b.dir, "stderr-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stderr.Close(), os.Remove(stderr.Name())) }()
	command.Stderr = stderr
	begin := time.Now()
	err = command.Run()
	took = time.Since(begin)
	if err != nil {
		text, readErr := io.ReadAll(io.NewSectionReader(stderr, 0, 64<<10))
		return 0, errors.Join(fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(text))), readErr)
	}
	return took, nil
}
