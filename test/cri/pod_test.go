//go:build vm

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/cri/client"
)

// pod is a pod and what kubelet knows of it.
type pod struct {
	*kubelet
	config *runtime.PodSandboxConfig
	id     string
	ip     string
}

// in returns the pod for a subtest.
func (p *pod) in(t *testing.T) *pod {
	in := *p
	in.kubelet = p.kubelet.in(t)
	return &in
}

// podConfig is what kubelet says of a pod without anything special.
func (k *kubelet) podConfig(name string) *runtime.PodSandboxConfig {
	k.t.Helper()
	logs := k.h.File("logs-" + name)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		k.t.Fatal(err)
	}
	return &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Namespace: "default", Uid: k.h.ID()},
		Hostname:     name,
		LogDirectory: logs,
		DnsConfig:    &runtime.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: k.parent,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(),
			},
		},
	}
}

// namespaces are those of a pod by default: each container has its processes
// to itself.
func namespaces() *runtime.NamespaceOption {
	return &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
}

// run starts a pod of a handler.
func (k *kubelet) run(handler string, config *runtime.PodSandboxConfig) *pod {
	k.t.Helper()
	answer := do(k, k.RunPodSandbox, &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	p := &pod{kubelet: k, config: config, id: answer.PodSandboxId}
	status := p.status()
	p.ip = status.GetNetwork().GetIp()
	if status.State != runtime.PodSandboxState_SANDBOX_READY || !strings.HasPrefix(p.ip, "10.88.7.") {
		k.t.Fatalf("the pod's status after its start: %v", status)
	}
	if got := status.RuntimeHandler; got != handler && got != "" { // CRI-O does not tell
		k.t.Fatalf("the pod has the handler %s, not %s", got, handler)
	}
	return p
}

func (p *pod) status() *runtime.PodSandboxStatus {
	p.t.Helper()
	return do(p.kubelet, p.PodSandboxStatus, &runtime.PodSandboxStatusRequest{PodSandboxId: p.id}).Status
}

// remove stops and removes the pod.
func (p *pod) remove() {
	p.t.Helper()
	if p.answers().patient {
		p.stopContainers()
	}
	do(p.kubelet, p.StopPodSandbox, &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
	if state := p.status().State; state != runtime.PodSandboxState_SANDBOX_NOTREADY {
		p.t.Errorf("the stopped pod's state is %s", state)
	}
	do(p.kubelet, p.RemovePodSandbox, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
}

// stopContainers ends the pod's containers, as kubelet does before a pod's end.
func (p *pod) stopContainers() {
	p.t.Helper()
	request := &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{PodSandboxId: p.id}}
	for _, c := range do(p.kubelet, p.ListContainers, request).Containers {
		do(p.kubelet, p.StopContainer, &runtime.StopContainerRequest{ContainerId: c.Id})
	}
}

// container is a container of a pod.
type container struct {
	*pod
	id  string
	log string
}

// in returns the container for a subtest.
func (c *container) in(t *testing.T) *container {
	in := *c
	in.pod = c.pod.in(t)
	return &in
}

// create makes a container that runs a shell script.
func (p *pod) create(name, script string, change ...func(*runtime.ContainerConfig)) *container {
	p.t.Helper()
	config := p.containerConfig(name, script)
	for _, f := range change {
		f(config)
	}
	answer := do(p.kubelet, p.CreateContainer, &runtime.CreateContainerRequest{
		PodSandboxId: p.id, Config: config, SandboxConfig: p.config,
	})
	return &container{pod: p, id: answer.ContainerId, log: filepath.Join(p.config.LogDirectory, config.LogPath)}
}

// containerConfig is what kubelet says of a container that runs a shell script.
func (p *pod) containerConfig(name, script string) *runtime.ContainerConfig {
	p.t.Helper()
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name},
		Image:    &runtime.ImageSpec{Image: image, UserSpecifiedImage: image},
		Command:  []string{"/bin/sh", "-c", script},
		LogPath:  name + ".log",
		Linux: &runtime.LinuxContainerConfig{
			SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: namespaces()},
		},
		Mounts: []*runtime.Mount{p.hosts()},
	}
}

// hosts is the file that kubelet mounts as /etc/hosts into each container.
func (p *pod) hosts() *runtime.Mount {
	p.t.Helper()
	path := filepath.Join(p.config.LogDirectory, "hosts")
	text := fmt.Sprintf("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n%s\t%s\n", p.ip, p.config.Hostname)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return &runtime.Mount{HostPath: path, ContainerPath: "/etc/hosts"}
}

// start makes a container and starts it.
func (p *pod) start(name, script string, change ...func(*runtime.ContainerConfig)) *container {
	p.t.Helper()
	c := p.create(name, script, change...)
	do(p.kubelet, p.StartContainer, &runtime.StartContainerRequest{ContainerId: c.id})
	return c
}

// await waits until the container has written a line.
func (c *container) await(line string) *container {
	c.t.Helper()
	c.h.WaitText(c.log, " F "+line+"\n")
	return c
}

// status is the container's status.
func (c *container) status() *runtime.ContainerStatus {
	c.t.Helper()
	return do(c.kubelet, c.ContainerStatus, &runtime.ContainerStatusRequest{ContainerId: c.id}).Status
}

// stop stops the container: its signal first, KILL after so many seconds.
func (c *container) stop(seconds int64) {
	c.t.Helper()
	request := &runtime.StopContainerRequest{ContainerId: c.id, Timeout: seconds}
	_, err := c.StopContainer(c.bounded(), request)
	if err != nil && strings.HasSuffix(err.Error(), "ttrpc: closed: unknown") {
		// containerd 1.6 gives up the connection for a container that has just ended by
		// itself, under the signal that it was about to send. A kubelet asks once more.
		_, err = c.StopContainer(c.bounded(), request)
	}
	c.must("stop", err)
}

// settled waits until the kubelet's view of the container is its end. Nothing
// tells of that: StopContainer returns before, when the task of a container that
// has ended of itself is gone already. So this asks again, as kubelet does.
func (c *container) settled() *runtime.ContainerStatus {
	c.t.Helper()
	ctx := c.bounded()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		s := c.status()
		if s.State != runtime.ContainerState_CONTAINER_RUNNING {
			return s
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return s
		}
	}
}

// ended checks how the container ended.
func (c *container) ended(code int32, reason string) {
	c.t.Helper()
	s := c.settled()
	if s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != code || s.Reason != reason {
		c.t.Errorf("%s: %s with code %d and reason %q, want an exit with code %d and reason %q: %s",
			s.Metadata.Name, s.State, s.ExitCode, s.Reason, code, reason, s.Message)
	}
}

// remove removes the container.
func (c *container) remove() {
	c.t.Helper()
	do(c.kubelet, c.RemoveContainer, &runtime.RemoveContainerRequest{ContainerId: c.id})
	if _, err := c.ContainerStatus(c.bounded(), &runtime.ContainerStatusRequest{ContainerId: c.id}); err == nil {
		c.t.Errorf("the removed container still has a status")
	}
}

// exec runs a shell script in the container to its end.
func (c *container) exec(script string) *runtime.ExecSyncResponse {
	c.t.Helper()
	return do(c.kubelet, c.ExecSync, &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", script}})
}

// output runs a shell script that has to succeed and returns what it writes.
func (c *container) output(script string) string {
	c.t.Helper()
	answer := c.exec(script)
	if answer.ExitCode != 0 {
		c.t.Fatalf("%s: exit code %d: %s%s", script, answer.ExitCode, answer.Stdout, answer.Stderr)
	}
	return string(answer.Stdout)
}

// stream starts a shell script in the container with its streams connected.
func (c *container) stream(script string, tty bool) *client.Session {
	c.t.Helper()
	answer := do(c.kubelet, c.Exec, &runtime.ExecRequest{
		ContainerId: c.id, Cmd: []string{"sh", "-c", script}, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty,
	})
	return c.open(answer.Url)
}

// attach connects to the container's own streams.
func (c *container) attach(tty bool) *client.Session {
	c.t.Helper()
	answer := do(c.kubelet, c.Attach, &runtime.AttachRequest{
		ContainerId: c.id, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty,
	})
	return c.open(answer.Url)
}

func (c *container) open(url string) *client.Session {
	c.t.Helper()
	session, err := client.Open(c.bounded(), url)
	c.must("open a stream", err)
	return session
}

// write writes to a session's standard input.
func (c *container) write(session *client.Session, text string) {
	c.t.Helper()
	_, err := session.Write([]byte(text))
	c.must("write", err)
}

// exits waits for a session's end.
func (c *container) exits(session *client.Session, code int) {
	c.t.Helper()
	if got, err := session.Wait(); err != nil || got != code {
		c.t.Errorf("exit code %d, %v, want %d", got, err, code)
	}
}

// logged returns the container's log as lines without their times, for each of
// which it checks the form.
func (c *container) logged() []string {
	c.t.Helper()
	data, err := os.ReadFile(c.log)
	c.must("read the log", err)
	var lines []string
	for line := range strings.Lines(string(data)) {
		if !logLine.MatchString(line) {
			c.t.Errorf("the log has the line %q", line)
			continue
		}
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		lines = append(lines, rest)
	}
	slices.Sort(lines) // the two streams have no order
	return lines
}
