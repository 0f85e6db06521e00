//go:build vm

package cri

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// logLine is the form of a line of a container's log.
var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\S+ (stdout|stderr) [FP] .*\n$`)

// Annotations that change a pod's VM: one that the test's configuration permits,
// and one that it does not.
const (
	kernelParams = "io.katacontainers.config.hypervisor.kernel_params"
	defaultVCPUs = "io.katacontainers.config.hypervisor.default_vcpus"
)

// serve is the script of a container that tells its name to who asks, by HTTP.
// It ends with code 3 when it is told to.
func serve(address string, port int, name string) string {
	return fmt.Sprintf("trap 'exit 3' TERM; mkdir /www; echo %s >/www/index.html; httpd -p %s:%d -h /www; "+
		"echo ready; while :; do sleep 100000 & wait $!; done", name, address, port)
}

// ask is a script that prints a server's answer.
func ask(host string, port int) string {
	return fmt.Sprintf("wget -q -O - http://%s:%d/", host, port)
}

func TestPod(t *testing.T) {
	k := newKubelet(t, containerd(1))
	for _, handler := range k.handlers() {
		t.Run(handler, func(t *testing.T) { testPod(t, k.in(t), handler) })
	}
}

// testPod takes a pod of two containers through its life.
func testPod(t *testing.T, k *kubelet, handler string) {
	t.Helper()
	config := k.podConfig("pod-" + handler)
	config.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "1023"}
	config.Annotations = map[string]string{kernelParams: "annotated=" + handler}
	p := k.run(handler, config)
	server := p.start("server", serve("127.0.0.1", 8080, "server"), limits).await("ready")
	clientContainer := p.start("client", "echo ready; sleep 100000").await("ready")

	t.Run("one network", func(t *testing.T) {
		c := clientContainer.in(t)
		if got := c.output(ask("127.0.0.1", 8080)); got != "server\n" {
			t.Errorf("the other container of the pod answers %q", got)
		}
		if got := c.output("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "1023\n" {
			t.Errorf("the sysctl is %q", got)
		}
		if got := c.output("ip -o -4 address show eth0"); !strings.Contains(got, " "+p.ip+"/24 ") {
			t.Errorf("eth0 has not the pod's address %s: %s", p.ip, got)
		}
	})
	t.Run("names", func(t *testing.T) {
		c := clientContainer.in(t)
		if got := c.output("hostname; cat /etc/hostname"); got != strings.Repeat(config.Hostname+"\n", 2) {
			t.Errorf("hostname: %q", got)
		}
		if got := c.output("cat /etc/hosts"); !strings.Contains(got, p.ip+"\t"+config.Hostname+"\n") {
			t.Errorf("/etc/hosts: %q", got)
		}
		if got := c.output("cat /etc/resolv.conf"); got != "search cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n" {
			t.Errorf("/etc/resolv.conf: %q", got)
		}
	})
	t.Run("annotations", func(t *testing.T) {
		if handler == "runc" {
			t.Skip("runc has no configuration")
		}
		c := clientContainer.in(t)
		if got := c.output("grep -o 'annotated=[a-z-]*' /proc/cmdline"); got != "annotated="+handler+"\n" {
			t.Errorf("the guest's command line has %q", got)
		}
		config := c.podConfig("refused-" + handler)
		config.Annotations = map[string]string{defaultVCPUs: "1"}
		_, err := c.RunPodSandbox(c.bounded(), &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
		if err == nil || !strings.Contains(err.Error(), defaultVCPUs) || !strings.Contains(err.Error(), "enable_annotations") {
			t.Errorf("an annotation that is not permitted: %v", err)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		if handler != "runc" {
			p.in(t).measured(2)
		}
	})
	t.Run("exec sync", func(t *testing.T) {
		c := clientContainer.in(t)
		got := c.exec("echo out; echo err >&2; exit 5")
		if got.ExitCode != 5 || string(got.Stdout) != "out\n" || string(got.Stderr) != "err\n" {
			t.Errorf("%v", got)
		}
		late, err := c.ExecSync(c.bounded(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sleep", "1000"}, Timeout: 1})
		if got := fmt.Sprint(late, err); !strings.Contains(got, c.answers().timeout) {
			t.Errorf("exec beyond its time: %s", got)
		}
		if got := c.output("ps"); strings.Contains(got, "sleep 1000\n") {
			t.Errorf("the process goes on: %s", got)
		}
		_, err = c.ExecSync(c.bounded(), &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/nonexistent"}})
		if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
			t.Errorf("exec of a program that is not there: %v", err)
		}
	})
	t.Run("exec", func(t *testing.T) {
		c := clientContainer.in(t)
		session := c.stream("read line; echo got $line; echo problem >&2; exit 6", false)
		c.write(session, "hello\n")
		if got := c.h.ReadAll(session.Stdout); got != "got hello\n" {
			t.Errorf("standard output %q", got)
		}
		if got := c.h.ReadAll(session.Stderr); got != "problem\n" {
			t.Errorf("standard error %q", got)
		}
		c.exits(session, 6)
	})
	t.Run("exec on a terminal", func(t *testing.T) {
		c := clientContainer.in(t)
		// The shell tells a new size when it is asked; SIGWINCH says when. It is waited
		// for by wait: one that comes just before read begins is not seen until read ends.
		session := c.stream("trap 'kill $!; stty size; exit 7' WINCH; sleep 100000 & tty; echo ready; while :; do wait; done", true)
		if got := c.h.Expect(session.Stdout, "ready\r\n"); !strings.Contains(got, "/dev/") {
			t.Errorf("no terminal: %q", got)
		}
		c.must("resize", session.Resize(99, 33))
		c.h.Expect(session.Stdout, "33 99\r\n")
		c.exits(session, 7)
	})
	t.Run("attach", func(t *testing.T) {
		p := p.in(t)
		// It ends when its output has been seen: containerd ends an attached client with
		// the container, whether or not everything was passed on.
		c := p.start("attached", "echo first; read line; echo got $line; echo problem >&2; read line; exit 8",
			func(config *runtime.ContainerConfig) { config.Stdin = true }).await("first")
		session := c.attach(false)
		c.write(session, "hello\n")
		c.h.Expect(session.Stdout, "got hello\n")
		c.h.Expect(session.Stderr, "problem\n")
		c.write(session, "end\n")
		if got := c.h.ReadAll(session.Stdout) + c.h.ReadAll(session.Stderr); got != "" {
			t.Errorf("more output: %q", got)
		}
		c.stop(60) // waits for the end, which has begun
		c.ended(8, "Error")
		want := []string{"stderr F problem", "stdout F first", "stdout F got hello"}
		if got := c.logged(); !slices.Equal(got, want) {
			t.Errorf("log %q, want %q", got, want)
		}
		c.remove()
	})
	t.Run("attach to a terminal", func(t *testing.T) {
		p := p.in(t)
		// Nobody tells the client that the size has arrived, but the container:
		// what is written later may come earlier.
		c := p.start("terminal", "trap 'stty size; kill $!' WINCH; sleep 100000 & echo ready; wait $!; "+
			"until read line; do :; done; echo $line; exit 0",
			func(config *runtime.ContainerConfig) { config.Stdin, config.Tty = true, true })
		c.h.WaitText(c.log, "ready")
		session := c.attach(true)
		c.must("resize", session.Resize(77, 22))
		c.h.Expect(session.Stdout, "22 77\r\n")
		c.write(session, "end\n")
		c.h.ReadAll(session.Stdout)
		c.stop(60)
		c.ended(0, "Completed")
		c.remove()
	})
	t.Run("logs", func(t *testing.T) {
		c := p.in(t).start("logging", "echo out; echo err >&2; printf unfinished; exit 0").await("out")
		c.stop(60)
		c.ended(0, "Completed")
		want := []string{"stderr F err", "stdout F out", "stdout P unfinished"}
		if got := c.logged(); !slices.Equal(got, want) {
			t.Errorf("log %q, want %q", got, want)
		}
		c.remove()
	})
	if handler != vmHandler { // CRI-O's ReopenContainerLog does nothing for its type vm
		t.Run("log rotation", func(t *testing.T) { testLogRotation(p.in(t)) })
	}
	t.Run("security", func(t *testing.T) { testSecurity(p.in(t)) })
	t.Run("volumes", func(t *testing.T) { testVolumes(p.in(t)) })
	t.Run("shared processes", func(t *testing.T) {
		if handler == sandboxHandler {
			t.Skip("a pod without a sandbox container has none to share unless it was made to: see TestContainerd2")
		}
		c := p.in(t).start("debugger", "echo ready; sleep 100000", func(config *runtime.ContainerConfig) {
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
		}).await("ready")
		if got := c.output("cat /proc/1/cmdline | tr '\\0' ' '"); !strings.Contains(got, pause) {
			t.Errorf("the first process is %q, not the sandbox's", got)
		}
		c.stop(0)
		c.remove()
	})
	if handler != vmHandler { // nor does its PortForward
		t.Run("port-forward", func(t *testing.T) { p.in(t).testForward(8080, "server") })
	}
	t.Run("update", func(t *testing.T) { testUpdate(server.in(t), handler != "runc") })
	t.Run("statistics", func(t *testing.T) {
		c := server.in(t)
		stats := do(c.kubelet, c.ContainerStats, &runtime.ContainerStatsRequest{ContainerId: c.id}).Stats
		if stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 || stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("%v", stats)
		}
	})
	t.Run("restart the manager", func(t *testing.T) {
		p := p.in(t)
		p.kubelet.end()
		p.kubelet.start()
		if state := p.status().State; state != runtime.PodSandboxState_SANDBOX_READY {
			t.Errorf("the pod is %s", state)
		}
		c := clientContainer.in(t)
		if state := c.status().State; state != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the container is %s", state)
		}
		if got := c.output(ask("127.0.0.1", 8080)); got != "server\n" {
			t.Errorf("the server answers %q", got)
		}
	})
	t.Run("stop", func(t *testing.T) {
		c := server.in(t)
		c.stop(60) // it handles TERM
		c.ended(3, "Error")
		c.remove()
		c = clientContainer.in(t)
		c.stop(1) // the first process of a PID namespace ignores TERM
		c.ended(137, "Error")
		c.remove()
	})
	t.Run("failure", func(t *testing.T) {
		p := p.in(t)
		config := p.containerConfig("missing", "")
		config.Command = []string{"/nonexistent"}
		created, err := p.CreateContainer(p.bounded(), &runtime.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		if err == nil { // containerd asks the runtime only now, and keeps the container
			c := &container{pod: p, id: created.ContainerId}
			_, err = p.StartContainer(p.bounded(), &runtime.StartContainerRequest{ContainerId: c.id})
			c.ended(128, "StartError")
			c.remove()
		}
		if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
			t.Errorf("start of a program that is not there: %v", err)
		}
	})
	if handler == shimHandler || handler == sandboxHandler { // runc's shim asks the host's control group, which knows nothing
		t.Run("out of memory", func(t *testing.T) {
			p := p.in(t)
			c := p.start("hungry", "exec tail /dev/zero", func(config *runtime.ContainerConfig) {
				config.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
			})
			c.ended(137, "OOMKilled")
			c.remove()
		})
	}
	p.remove()
}

// memoryLimit prints the container's own limit, whichever cgroup version it sees.
const memoryLimit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true"
