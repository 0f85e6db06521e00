//go:build vm

package cri

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"sync"

	"github.com/containerd/containerd/api/services/containers/v1"
	taskapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/bundle"
	"kata-runtime/test/cri/client"
)

// stages is a pod with a container at each stage of a container's life.
type stages struct {
	*pod
	exits *exits
	// main runs, with a process beside its first, and stopping has been asked to end
	// and does not.
	main, stopping *container
	// created has not been started, running may do everything, exited has ended with
	// code 3. They are tasks of containerd's that CRI does not know.
	created, running, exited string
	// exec and stop take how the call ends that runs the process in main, and the one
	// that stops stopping.
	exec, stop chan error
}

// stages makes the pod.
func (d *deaths) stages() *stages {
	d.t.Helper()
	s := &stages{exits: newExits(d.kubelet), exec: make(chan error, 1), stop: make(chan error, 1)}
	s.pod = d.run(d.handler, d.config)
	s.main = s.start("main", "echo ready; sleep 100000").await("ready")
	s.stopping = s.start("stopping", "trap 'echo asked' TERM; echo ready; while :; do sleep 100000 & wait $!; done").await("ready")
	d.pod = s.id
	holder := d.processes("holder")[0]
	s.created = d.tasks.create(s.pod, holder, bundle.Spec("/bin/sleep", "100000"))
	s.running = d.tasks.create(s.pod, holder, unconfined(bundle.Spec("/bin/sleep", "100000")))
	s.exited = d.tasks.create(s.pod, holder, bundle.Spec("/bin/sh", "-c", "exit 3"))
	d.tasks.start(d.kubelet, s.running)
	d.tasks.start(d.kubelet, s.exited)
	s.exits.await(d.kubelet, s.exited, 3)
	d.running = s.running
	go func() {
		answer, err := s.ExecSync(s.bounded(), &runtime.ExecSyncRequest{
			ContainerId: s.main.id, Cmd: []string{"sh", "-c", "echo executing >/proc/1/fd/1; sleep 100000"},
		})
		if err == nil && answer.ExitCode != 0 {
			err = status.Errorf(codes.Unknown, "exit code %d", answer.ExitCode)
		}
		s.exec <- err
	}()
	s.main.await("executing")
	go func() {
		_, err := s.StopContainer(s.bounded(), &runtime.StopContainerRequest{ContainerId: s.stopping.id, Timeout: 100})
		s.stop <- err
	}()
	s.stopping.await("asked")
	return s
}

// removeStages removes the pod as kubelet does, with what CRI does not know.
func (s *stages) removeStages(t *tasks) {
	s.t.Helper()
	for _, id := range []string{s.created, s.running, s.exited} {
		t.remove(s.kubelet, id)
	}
	s.main.stop(0)
	s.main.remove()
	s.stopping.stop(0)
	s.stopping.remove()
	s.remove()
}

// unconfined lets a container reach its guest's kernel.
func unconfined(spec *specs.Spec) *specs.Spec {
	all := []string{"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_DAC_OVERRIDE", "CAP_KILL"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	return spec
}

// tasks is containerd's own API, for what CRI does not know.
type tasks struct{ *client.Containerd }

// create makes a container in a pod, whose namespaces a process holds, and its task,
// which is not started.
func (t *tasks) create(p *pod, holder int, spec *specs.Spec) string {
	p.t.Helper()
	id := p.h.ID()
	spec.Annotations = map[string]string{
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": p.id,
	}
	spec.Hostname, spec.Linux.CgroupsPath = "", p.parent+"/"+id
	ctx := client.InCRI(p.bounded())
	for kind, name := range map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"} {
		bundle.Namespace(spec, kind).Path = "/proc/" + strconv.Itoa(holder) + "/ns/" + name
	}
	rootfs := p.h.File("rootfs-" + id)
	p.must("make a root file system", bundle.Rootfs(rootfs))
	_, err := t.Containers.Create(ctx, &containers.CreateContainerRequest{Container: &containers.Container{
		ID: id, Runtime: &containers.Container_Runtime{Name: "io.containerd.kata.v2"}, Spec: encoded(p.kubelet, "Spec", spec),
		Sandbox: p.id, // of the Sandbox API's pods: containerd finds their shim by it
	}})
	p.must("make a container", err)
	_, err = t.Tasks.Create(ctx, &taskapi.CreateTaskRequest{
		ContainerID: id, Rootfs: []*types.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "rw"}}},
	})
	p.must("make a task", err)
	return id
}

// encoded is a part of the runtime's specification as containerd takes it.
func encoded(k *kubelet, kind string, value any) *anypb.Any {
	k.t.Helper()
	data, err := json.Marshal(value)
	k.must("encode", err)
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/" + kind, Value: data}
}

func (t *tasks) start(k *kubelet, id string) {
	k.t.Helper()
	_, err := t.Tasks.Start(client.InCRI(k.bounded()), &taskapi.StartRequest{ContainerID: id})
	k.must("start a task", err)
}

func (t *tasks) kill(k *kubelet, id string) {
	k.t.Helper()
	_, err := t.Tasks.Kill(client.InCRI(k.bounded()), &taskapi.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	k.must("kill a task", err)
}

func (t *tasks) wait(k *kubelet, id string) uint32 {
	k.t.Helper()
	answer, err := t.Tasks.Wait(client.InCRI(k.bounded()), &taskapi.WaitRequest{ContainerID: id})
	k.must("wait for a task", err)
	return answer.GetExitStatus()
}

// exec starts a script, which may be the end of the one who answers.
func (t *tasks) exec(k *kubelet, id, script string) {
	k.t.Helper()
	ctx := client.InCRI(k.bounded())
	process := bundle.Spec("/bin/sh", "-c", script).Process
	process.Capabilities = unconfined(bundle.Spec()).Process.Capabilities
	_, err := t.Tasks.Exec(ctx, &taskapi.ExecProcessRequest{ContainerID: id, ExecID: "script", Spec: encoded(k, "Process", process)})
	k.must("add a process", err)
	_, _ = t.Tasks.Start(ctx, &taskapi.StartRequest{ContainerID: id, ExecID: "script"})
}

// remove removes a task, if there is one, and its container.
func (t *tasks) remove(k *kubelet, id string) {
	k.t.Helper()
	ctx := client.InCRI(k.bounded())
	_, err := t.Tasks.Kill(ctx, &taskapi.KillRequest{ContainerID: id, Signal: uint32(unix.SIGKILL), All: true})
	if err == nil {
		_, err = t.Tasks.Wait(ctx, &taskapi.WaitRequest{ContainerID: id})
	}
	if err == nil || status.Code(err) == codes.NotFound { // as of a task that has ended
		_, err = t.Tasks.Delete(ctx, &taskapi.DeleteTaskRequest{ContainerID: id})
	}
	if err != nil && status.Code(err) != codes.NotFound {
		k.t.Errorf("remove a task: %v", err)
	}
	_, err = t.Containers.Delete(ctx, &containers.DeleteContainerRequest{ID: id})
	k.must("remove a container", err)
	k.must("remove its root file system", os.RemoveAll(k.h.File("rootfs-"+id)))
}

// exits are the ends of tasks that containerd has told.
type exits struct {
	mu    sync.Mutex
	codes map[string]uint32 // the last of each
	came  chan struct{}     // closed and made anew when there is another
}

// newExits takes ends until the test's own.
func newExits(k *kubelet) *exits {
	k.t.Helper()
	e := &exits{codes: make(map[string]uint32), came: make(chan struct{})}
	ctx, cancel := context.WithCancel(k.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = k.Containerd().Exits(ctx, e.take) // what is missed then is waited for
	}()
	k.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return e
}

func (e *exits) take(id string, code uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.codes[id] = code
	close(e.came)
	e.came = make(chan struct{})
}

// await waits until a task's end was told.
func (e *exits) await(k *kubelet, id string, want uint32) {
	k.t.Helper()
	ctx := k.bounded()
	for {
		e.mu.Lock()
		code, told := e.codes[id]
		came := e.came
		e.mu.Unlock()
		if told {
			if code != want {
				k.t.Errorf("the exit code of %s is %d, want %d", id, code, want)
			}
			return
		}
		select {
		case <-came:
		case <-ctx.Done():
			k.t.Fatalf("the end of %s was not told: %v", id, ctx.Err())
		}
	}
}
