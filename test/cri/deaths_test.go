//go:build vm

package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/harness"
	"kata-runtime/test/leak"
)

// TestDeathsByShim kills each process that a pod of the shim depends on, while the
// pod boots, and when it has a container at each stage of its life. The pods have
// one name: whatever one leaves would be in the next one's way.
func TestDeathsByShim(t *testing.T) {
	t.Run("containerd 1", func(t *testing.T) { testDeaths(t, containerd(1), shimHandler) })
	if os.Getenv("KATA_TEST_FULL") == "" {
		return
	}
	t.Run("containerd 2", func(t *testing.T) { testDeaths(t, containerd(2), shimHandler) })
	t.Run("Sandbox API", func(t *testing.T) { testDeaths(t, containerd(2), sandboxHandler) })
}

func testDeaths(t *testing.T, version containerd, handler string) {
	t.Helper()
	k := newKubelet(t, version)
	// What a shim that was killed leaves to the first process of a system.
	k.h.ReapOrphans("containerd-shim", "exe", "qemu-system-x86", "virtiofsd", "kata-fs", "kata-vsock", "kata-reader", "kata-device")
	first := k.run(handler, k.podConfig("first")) // makes what stays, as the bridge
	first.start("main", "echo ready; sleep 100000").await("ready").remove()
	first.remove()
	before, err := leak.Take("/run", "/dev/shm", k.h.Temp)
	k.must("look at what there is", err)
	uid := k.h.ID()
	row := func(stage, victim string, test func(*deaths)) bool {
		return t.Run(stage+"/"+victim, func(t *testing.T) {
			k := k.in(t)
			config := k.podConfig("pod")
			config.Metadata.Uid = uid
			d := &deaths{kubelet: k, handler: handler, config: config, victim: victim, tasks: &tasks{k.Containerd()}, since: len(k.logged())}
			began := time.Now()
			test(d)
			t.Logf("took %v", time.Since(began).Round(time.Millisecond))
			d.checkNothingLeft(before)
		})
	}
	// A row after one that failed would fail for its reasons.
	for _, victim := range []string{"shim", "holder", "qemu", "virtiofsd", "vsock", "reader", "containerd"} {
		for _, moment := range moments() {
			if !row(fmt.Sprintf("boot+%s", moment), victim, func(d *deaths) { d.duringBoot(moment) }) {
				return
			}
		}
	}
	for _, victim := range []string{"shim", "holder", "qemu", "virtiofsd", "vsock", "reader", "agent", "guest"} {
		if !row("life", victim, (*deaths).ofPod) {
			return
		}
	}
	for _, victim := range []string{"container's holder", "init"} {
		if !row("life", victim, (*deaths).ofContainer) {
			return
		}
	}
	row("life", "containerd", (*deaths).ofManager)
}

// moments are how long after a machine's start something is killed: at once, and in
// the long test here and there until it has booted.
func moments() []time.Duration {
	all := []time.Duration{0}
	for more := 400 * time.Millisecond; os.Getenv("KATA_TEST_FULL") != "" && more < 3*time.Second; more += 400 * time.Millisecond {
		all = append(all, more)
	}
	return all
}

// endPatience is how long what has been removed may still be ending.
const endPatience = 20 * time.Second

// deaths is a row of the table: a pod, and the process that is killed.
type deaths struct {
	*kubelet
	handler string
	config  *runtime.PodSandboxConfig
	victim  string
	tasks   *tasks
	since   int // what containerd had logged before
	// pod and running are the ids of the pod and of a container, when there are any.
	pod, running string
}

// duringBoot kills while the machine boots. kubelet hears of it, and asks for the
// same pod again.
func (d *deaths) duringBoot(moment time.Duration) {
	d.t.Helper()
	request := &runtime.RunPodSandboxRequest{Config: d.config, RuntimeHandler: d.handler}
	answered := make(chan error, 1)
	go func() {
		_, err := d.RunPodSandbox(d.bounded(), request)
		answered <- err
	}()
	d.await("a machine", func() bool {
		return len(d.processes("qemu")) > 0 && len(d.processes("virtiofsd")) > 0 && len(d.processes("reader")) > 0
	})
	started := false
	select {
	case err := <-answered:
		started = err == nil
		answered <- err
	case <-time.After(moment): // none in particular
	}
	d.kill(d.victim)
	if err := <-answered; err == nil && !started && d.victim != "containerd" && moment == 0 {
		d.t.Error("the pod has started")
	}
	if d.victim == "containerd" {
		d.start()
	}
	for _, pod := range do(d.kubelet, d.ListPodSandbox, &runtime.ListPodSandboxRequest{}).Items {
		d.removePod(pod.Id)
	}
}

// ofPod kills what a pod cannot be without.
func (d *deaths) ofPod() {
	d.t.Helper()
	p := d.stages()
	d.kill(d.victim)
	// The first process's end that was told stays what it was, but where nobody is
	// left who remembers.
	if d.handler != sandboxHandler { // whose pod is no task
		p.exits.await(d.kubelet, p.id, 137)
	}
	for _, id := range []string{p.main.id, p.stopping.id, p.created, p.running} {
		p.exits.await(d.kubelet, id, 137)
	}
	if err := <-p.exec; err == nil {
		d.t.Error("the exec has succeeded")
	}
	if err := <-p.stop; err != nil {
		d.t.Errorf("the stop of a container that has ended: %v", err)
	}
	d.await("the pod's end", func() bool { return p.status().State == runtime.PodSandboxState_SANDBOX_NOTREADY })
	code := int32(137)
	if d.victim == "shim" {
		code = 255 // how containerd's CRI, which waits by a call, calls the end of that
	}
	p.main.ended(code, "Error")
	p.stopping.ended(code, "Error")
	if _, err := p.ExecSync(p.bounded(), &runtime.ExecSyncRequest{ContainerId: p.main.id, Cmd: []string{"true"}}); err == nil {
		d.t.Error("a program runs in a container that has ended")
	}
	if _, err := p.CreateContainer(p.bounded(), &runtime.CreateContainerRequest{
		PodSandboxId: p.id, Config: p.containerConfig("late", "true"), SandboxConfig: p.config,
	}); err == nil {
		d.t.Error("a container can be made in a pod that has ended")
	}
	p.removeStages(d.tasks)
}

// ofContainer kills what ends one container.
func (d *deaths) ofContainer() {
	d.t.Helper()
	p := d.stages()
	d.kill(d.victim)
	p.exits.await(d.kubelet, p.running, 137)
	if state := p.status().State; state != runtime.PodSandboxState_SANDBOX_READY {
		d.t.Errorf("the pod is %s", state)
	}
	if got := p.main.output("echo still here"); got != "still here\n" {
		d.t.Errorf("another container says %q", got)
	}
	p.removeStages(d.tasks)
}

// ofManager kills containerd, which finds everything again.
func (d *deaths) ofManager() {
	d.t.Helper()
	p := d.stages()
	d.kill(d.victim)
	for call, answered := range map[string]chan error{"exec": p.exec, "stop": p.stop} {
		if err := <-answered; err == nil {
			d.t.Errorf("%s succeeds", call)
		}
	}
	d.kill("container's holder") // and with it a container, while nobody listens
	d.start()
	if state := p.status().State; state != runtime.PodSandboxState_SANDBOX_READY {
		d.t.Errorf("the pod is %s", state)
	}
	if got := p.main.output("echo still here"); got != "still here\n" {
		d.t.Errorf("a container says %q", got)
	}
	if code := d.tasks.wait(d.kubelet, p.running); code != 137 {
		d.t.Errorf("the exit code of a container that ended meanwhile is %d", code)
	}
	d.tasks.start(d.kubelet, p.created)
	d.tasks.kill(d.kubelet, p.created)
	if code := d.tasks.wait(d.kubelet, p.created); code != 137 {
		d.t.Errorf("a killed container's exit code is %d", code)
	}
	if code := d.tasks.wait(d.kubelet, p.exited); code != 3 {
		d.t.Errorf("the exit code of a container that had ended before is %d", code)
	}
	p.removeStages(d.tasks)
}

// kill ends a process with SIGKILL, or as near to it as can be come by.
func (d *deaths) kill(victim string) {
	d.t.Helper()
	switch victim {
	case "init":
		d.tasks.kill(d.kubelet, d.running)
		return
	case "agent", "guest":
		// The guest's kernel kills all that runs in it but PID 1, or ends itself.
		letter := map[string]string{"agent": "i", "guest": "c"}[victim]
		d.tasks.exec(d.kubelet, d.running, "echo "+letter+" > /proc/sysrq-trigger")
		return
	}
	pids := d.processes(victim)
	if len(pids) == 0 {
		d.t.Fatalf("there is no %s", victim)
	}
	for _, pid := range pids { // virtiofsd is two
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			d.t.Fatalf("kill %s: %v", victim, err)
		}
	}
	if victim == "containerd" {
		_ = d.daemon.Wait() // it was killed
	}
}

// processes are those of a pod by what they do, and containerd's.
func (d *deaths) processes(name string) []int {
	d.t.Helper()
	if name == "containerd" {
		return []int{d.daemon.Process.Pid}
	}
	part := map[string]string{
		"shim": "containerd-shim-kata-v2 -", "holder": "namespace-holder " + d.pod, "container's holder": "namespace-holder " + d.running,
		"qemu": "qemu-system", "virtiofsd": harness.FileServerCommand(), "vsock": "kata-vsock", "reader": "kata-reader",
	}[name]
	var pids []int
	for _, p := range d.h.Processes() {
		if strings.Contains(p.Command, part) {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// await waits until something is so.
func (d *deaths) await(what string, holds func() bool) {
	d.t.Helper()
	d.must(what, until(d.bounded(), holds))
}

// until asks again until something is so that nothing tells of.
func until(ctx context.Context, holds func() bool) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// removePod removes a pod as kubelet does, whatever has become of it: again, where
// containerd has not heard yet that the shim is gone.
func (d *deaths) removePod(id string) {
	d.t.Helper()
	d.await("remove the pod", func() bool {
		_, err := d.StopPodSandbox(d.bounded(), &runtime.StopPodSandboxRequest{PodSandboxId: id})
		if err == nil {
			_, err = d.RemovePodSandbox(d.bounded(), &runtime.RemovePodSandboxRequest{PodSandboxId: id})
		}
		return err == nil
	})
}

// checkNothingLeft compares with what there was before the pod, containerd's own
// left out, and looks whether containerd was content with the shim's delete.
func (d *deaths) checkNothingLeft(before *leak.Snapshot) {
	d.t.Helper()
	var left []string
	own := fmt.Sprintf("process %d ", d.daemon.Process.Pid)
	ctx, cancel := context.WithTimeout(d.t.Context(), endPatience)
	defer cancel()
	_ = until(ctx, func() bool { // what is left then is reported
		added, err := before.Added()
		d.must("look at what is left", err)
		left = slices.DeleteFunc(added, func(entry string) bool {
			return strings.HasPrefix(entry, own) || strings.HasPrefix(entry, "unix socket /run/containerd/containerd.sock") // of another start
		})
		return len(left) == 0
	})
	for _, entry := range left {
		d.t.Errorf("left behind: %s", entry)
	}
	// What delete prints, or that it was too slow.
	for line := range strings.Lines(d.logged()[d.since:]) {
		if strings.Contains(line, "failed to clean up after shim disconnected") || strings.Contains(line, "clean up after container") {
			d.t.Errorf("containerd says: %s", line)
		}
	}
	if states, err := os.ReadDir(d.h.File("manager") + "/shim/k8s.io"); err == nil {
		for _, entry := range states {
			if entry.IsDir() {
				d.t.Errorf("left in the shim's state: %s", entry.Name())
			}
		}
	}
}
