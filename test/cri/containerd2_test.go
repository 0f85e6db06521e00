//go:build vm

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/harness"
)

// What kubelet maps to a pod that has hostUsers: false.
const (
	mappedRoot = 100000
	mappedIDs  = 65536
)

// TestContainerd2 takes pods through a containerd 2, with a runc that has what
// this containerd asks for.
func TestContainerd2(t *testing.T) {
	k := newKubelet(t, containerd(2))
	for _, handler := range k.handlers() {
		t.Run(handler, func(t *testing.T) {
			if os.Getenv("KATA_TEST_FULL") != "" {
				testPod(t, k.in(t), handler)
				return
			}
			testContainerd2(k.in(t), handler)
		})
		t.Run(handler+" with shared processes", func(t *testing.T) {
			k := k.in(t)
			config := k.podConfig("shared-" + handler)
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
			p, first := k.run(handler, config), pause
			if handler == sandboxHandler { // without a sandbox container
				first = "/pause"
			}
			p.testSharedProcesses(first)
			p.remove()
		})
		if handler == sandboxHandler { // without a sandbox container, whose program would be the host's
			t.Run(handler+" of arm64", func(t *testing.T) { testArchitecture(k.in(t), handler) })
		}
		t.Run(handler+" in a user namespace", func(t *testing.T) {
			testUserNamespace(k.in(t), handler)
		})
	}
}

// testContainerd2 takes an ordinary pod through its life.
func testContainerd2(k *kubelet, handler string) {
	k.t.Helper()
	p := k.run(handler, k.podConfig("pod-"+handler))
	c := p.start("main", "trap 'exit 3' TERM; echo ready; while :; do sleep 100000 & wait $!; done", limits).await("ready")
	if got := c.output("hostname; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; ip -o -4 address show eth0"); !strings.HasPrefix(got, p.config.Hostname+"\n134217728\n") || !strings.Contains(got, " "+p.ip+"/24 ") {
		k.t.Errorf("exec: %q", got)
	}
	if got := c.logged(); len(got) != 1 || got[0] != "stdout F ready" {
		k.t.Errorf("the log has %q", got)
	}
	if usage := do(k, c.ContainerStats, &runtime.ContainerStatsRequest{ContainerId: c.id}).Stats; usage.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		k.t.Errorf("statistics: %v", usage)
	}
	if handler == sandboxHandler { // with a sandbox container, containerd tells the runtime nothing
		testResize(p, c)
	}
	if handler != "runc" {
		p.measured(1)
	}
	c.stop(60)
	c.ended(3, "Error")
	c.remove()
	p.remove()
}

// testArchitecture takes a pod through its life whose annotation asks for an arm64 machine.
func testArchitecture(k *kubelet, handler string) {
	k.t.Helper()
	config := k.podConfig("arm64-" + handler)
	config.Annotations = map[string]string{"io.katacontainers.architecture": "arm64"}
	p := k.run(handler, config)
	programs := filepath.Join(harness.Repository(k.t), "build", "arm64") // make build/arm64/busybox
	c := p.start("main", "", func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: programs, ContainerPath: "/arm64", Readonly: true})
		c.Command = []string{"/arm64/busybox", "sh", "-c", "busybox uname -m; exec busybox sleep 100000"}
	}).await("aarch64")
	answer := do(c.kubelet, c.ExecSync, &runtime.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"/arm64/busybox", "ip", "-o", "-4", "address", "show", "eth0"}})
	if !strings.Contains(string(answer.Stdout), " "+p.ip+"/24 ") {
		k.t.Errorf("eth0 has not the pod's address %s: %s", p.ip, answer.Stdout)
	}
	// The image is this host's.
	_, err := p.CreateContainer(p.bounded(), &runtime.CreateContainerRequest{
		PodSandboxId: p.id, Config: p.containerConfig("other", "true"), SandboxConfig: p.config,
	})
	if err == nil {
		other := p.create("another", "true")
		_, err = p.StartContainer(p.bounded(), &runtime.StartContainerRequest{ContainerId: other.id})
	}
	if err == nil || !strings.Contains(err.Error(), "the container is for amd64") {
		k.t.Errorf("a container for the host's architecture: %v", err)
	}
	p.remove()
}

// testResize changes what the pod's containers may use together, as kubelet does
// before it changes the containers' own limits.
func testResize(p *pod, c *container) {
	p.t.Helper()
	const more = 1024 // MiB, several times what the machine has
	do(p.kubelet, p.UpdatePodSandboxResources, &runtime.UpdatePodSandboxResourcesRequest{
		PodSandboxId: p.id, Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: more << 20, CpuPeriod: 100000, CpuQuota: 60000},
	})
	if got := c.freeMemory(); got < more {
		p.t.Errorf("the machine has %d MiB of free memory, and the pod may use %d", got, more)
	}
}

// testSharedProcesses runs containers that see each other's processes, and the
// first of them, which is the pod's own.
func (p *pod) testSharedProcesses(first string) {
	p.t.Helper()
	share := func(config *runtime.ContainerConfig) {
		config.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
	}
	other := p.start("seen", "echo ready; sleep 77777", share).await("ready")
	c := p.start("debugger", "echo ready; sleep 100000", share).await("ready")
	if got := c.output("cat /proc/1/cmdline | tr '\\0' ' '"); !strings.Contains(got, first) {
		p.t.Errorf("the first process is %q, not the sandbox's", got)
	}
	if got := c.output("ps"); !strings.Contains(got, "sleep 77777") {
		p.t.Errorf("the other container's processes are not seen: %s", got)
	}
	for _, c := range []*container{other, c} {
		c.stop(0)
		c.remove()
	}
}

// users is what kubelet says of a pod that has hostUsers: false.
func users() *runtime.UserNamespace {
	ids := []*runtime.IDMapping{{ContainerId: 0, HostId: mappedRoot, Length: mappedIDs}}
	return &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// testUserNamespace runs a pod whose root is nobody on the host.
func testUserNamespace(k *kubelet, handler string) {
	k.t.Helper()
	// kubelet asks for a user namespace only where the handler is said to have it.
	if !k.hasUserNamespaces(handler) {
		k.t.Fatalf("containerd does not say that %s has user namespaces", handler)
	}
	config := k.podConfig("users-" + handler)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users()
	p := k.run(handler, config)
	// kubelet maps the ids of the volumes: on disk their files have the pod's.
	volume, secret := k.h.File("volume-"+p.id), k.h.File("secret-"+p.id)
	k.must("make a volume", os.Mkdir(volume, 0o755))
	k.must("make a file", os.WriteFile(filepath.Join(volume, "given"), []byte("given\n"), 0o600))
	k.mountEmpty(secret)
	k.must("make a file", os.WriteFile(filepath.Join(secret, "token"), []byte("token\n"), 0o600))
	inUsers := func(config *runtime.ContainerConfig) {
		options := users()
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = options
		config.Mounts = append(config.Mounts,
			&runtime.Mount{HostPath: volume, ContainerPath: "/volume", UidMappings: options.Uids, GidMappings: options.Gids},
			&runtime.Mount{HostPath: secret, ContainerPath: "/secret", Readonly: true, UidMappings: options.Uids, GidMappings: options.Gids})
	}
	first := p.start("first", "touch /volume/made /made; chown 7:8 /volume/made /made; mkdir /www; echo first >/www/index.html; "+
		"httpd -p 127.0.0.1:80 -h /www; echo ready; sleep 100000", inUsers, func(config *runtime.ContainerConfig) {
		config.Linux.SecurityContext.Capabilities = &runtime.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	}).await("ready")
	second := p.start("second", "echo ready; sleep 100000", inUsers, func(config *runtime.ContainerConfig) {
		config.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 7}
		config.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 8}
	}).await("ready")
	ids := fmt.Sprintf("0 %d %d\n", mappedRoot, mappedIDs)
	for _, c := range []struct {
		in           *container
		script, want string
	}{
		{first, "id -u; id -g", "0\n0\n"},
		{first, "echo $(cat /proc/self/uid_map)", ids},
		{first, "echo $(cat /proc/self/gid_map)", ids},
		{first, "stat -c %u:%g / /bin/sh /made /volume", "0:0\n0:0\n7:8\n0:0\n"},
		{first, "cat /volume/given /secret/token", "given\ntoken\n"},
		// kubelet's file is not mapped: root on the host is nobody.
		{first, "stat -c %u:%g /volume/given /secret/token /etc/hosts", "0:0\n0:0\n65534:65534\n"},
		{first, "echo x >/etc/new && cat /etc/new; rm /volume/given; ls /volume", "x\nmade\n"},
		{first, "touch /dev/shm/x; stat -c %u /dev/shm/x; rm /dev/shm/x", "0\n"},
		// What belongs to the pod belongs to its user namespace.
		{first, "hostname other && hostname", "other\n"},
		{first, "mkdir /mnt && mount -t tmpfs none /mnt && stat -c %u /mnt && umount /mnt", "0\n"},
		{first, "mount -o remount,rw /secret 2>/dev/null; touch /secret/new 2>&1", "touch: /secret/new: Read-only file system\n"},
		{second, "id -u; id -g", "7\n8\n"},
		{second, "echo $(cat /proc/self/uid_map)", ids},
		{second, "stat -c %u:%g /volume/made; echo x >/volume/made; cat /volume/made; cat /secret/token 2>&1", "7:8\nx\ncat: can't open '/secret/token': Permission denied\n"},
		{second, ask("127.0.0.1", 80), "first\n"},
	} {
		if got := c.in.exec(c.script); string(got.Stdout) != c.want {
			k.t.Errorf("%s: %q, want %q, %s", c.script, got.Stdout, c.want, got.Stderr)
		}
	}
	const namespace = "readlink /proc/self/ns/user"
	if one, other := first.output(namespace), second.output(namespace); one != other {
		k.t.Errorf("the containers of the pod are in the user namespaces %s and %s", one, other)
	}
	session := first.stream("stat -c %u $(tty); echo $(cat /proc/self/uid_map)", true)
	if got, want := first.h.ReadAll(session.Stdout), strings.ReplaceAll("0\n"+ids, "\n", "\r\n"); got != want {
		k.t.Errorf("on a terminal: %q, want %q", got, want)
	}
	first.exits(session, 0)
	p.testForward(80, "first")
	info, err := os.Stat(filepath.Join(volume, "made"))
	k.must("look at the volume", err)
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 7 || owner.Gid != 8 {
		k.t.Errorf("on the host the container's file in a mapped volume is %d:%d's", owner.Uid, owner.Gid)
	}
	if handler != shimHandler && handler != sandboxHandler { // whose root file systems are mounted in a namespace of its own
		k.checkRoot(first.id)
	}
	first.stop(0)
	first.ended(137, "Error")
	first.remove()
	p.remove() // with its running container
}

// checkRoot looks for the owners of a mapped container's files on the host.
func (k *kubelet) checkRoot(id string) {
	k.t.Helper()
	rootfs := filepath.Join("/run/containerd/io.containerd.runtime.v2.task/k8s.io", id, "rootfs")
	for name, want := range map[string]uint32{"bin/sh": mappedRoot, "etc/new": mappedRoot, "made": mappedRoot + 7} {
		info, err := os.Lstat(filepath.Join(rootfs, name))
		k.must("look at the root file system", err)
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			k.t.Errorf("on the host /%s is %d's, not %d's", name, got, want)
		}
	}
}

// hasUserNamespaces tells whether containerd says that a handler has user
// namespaces.
func (k *kubelet) hasUserNamespaces(name string) bool {
	k.t.Helper()
	for _, h := range do(k, k.Status, &runtime.StatusRequest{}).RuntimeHandlers {
		if h.Name == name {
			return h.GetFeatures().GetUserNamespaces()
		}
	}
	return false
}
