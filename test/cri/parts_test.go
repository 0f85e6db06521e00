//go:build vm

package cri

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kata-runtime/test/cri/client"
)

// testLogRotation lets a container's log be made anew.
func testLogRotation(p *pod) {
	p.t.Helper()
	c := p.start("rotated", "echo first; while read line; do echo $line; done",
		func(config *runtime.ContainerConfig) { config.Stdin = true }).await("first")
	c.must("rename the log", os.Rename(c.log, c.log+".1"))
	do(c.kubelet, c.ReopenContainerLog, &runtime.ReopenContainerLogRequest{ContainerId: c.id})
	session := c.attach(false)
	c.write(session, "second\n")
	c.await("second")
	c.must("close", session.Close())
	if got := c.logged(); !slices.Equal(got, []string{"stdout F second"}) {
		p.t.Errorf("the new log has %q", got)
	}
	c.stop(0)
	c.ended(137, "Error")
	c.remove()
}

// testSecurity runs a container that may do as little as kubelet can say.
func testSecurity(p *pod) {
	p.t.Helper()
	c := p.start("restricted", "echo ready; sleep 100000", func(config *runtime.ContainerConfig) {
		security := config.Linux.SecurityContext
		security.RunAsUser = &runtime.Int64Value{Value: 1000}
		security.RunAsGroup = &runtime.Int64Value{Value: 2000}
		security.SupplementalGroups = []int64{3000}
		security.ReadonlyRootfs = true
		security.NoNewPrivs = true
		security.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
		security.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
		security.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/sys/firmware"}
		security.ReadonlyPaths = []string{"/proc/bus", "/proc/sys"}
		config.Linux.Resources = &runtime.LinuxContainerResources{OomScoreAdj: 900, MemoryLimitInBytes: 64 << 20}
	}).await("ready")
	for script, want := range map[string]string{
		"id -u; id -g; id -G": "1000\n2000\n2000 3000\n",
		"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' '  '": "CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 ",
		"touch /new 2>&1":                       "touch: /new: Read-only file system\n",
		"echo 1 2>&1 >/proc/sys/vm/drop_caches": "sh: can't create /proc/sys/vm/drop_caches: Read-only file system\n",
		"cat /proc/self/oom_score_adj":          "900\n",
		"wc -c </proc/keys":                     "0\n",
	} {
		if got := c.exec(script); string(got.Stdout) != want {
			c.t.Errorf("%s: %q, want %q, %s", script, got.Stdout, want, got.Stderr)
		}
	}
	c.stop(0)
	c.remove()

	c = p.start("administrator", "echo ready; sleep 100000", func(config *runtime.ContainerConfig) {
		config.Linux.SecurityContext.Capabilities = &runtime.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	}).await("ready")
	// The network is the pod's own, and so the container may change it.
	if got := c.output("ip address add 10.99.0.1/32 dev eth0 && ip address del 10.99.0.1/32 dev eth0 && echo changed"); got != "changed\n" {
		c.t.Errorf("with NET_ADMIN: %q", got)
	}
	c.stop(0)
	c.remove()
}

// testVolumes mounts what kubelet does: a file for the last words, a secret's
// directory, and one that the containers of the pod share.
func testVolumes(p *pod) {
	p.t.Helper()
	words, secret, shared := p.h.File("words-"+p.id), p.h.File("secret-"+p.id), p.h.File("shared-"+p.id)
	for _, dir := range []string{secret, shared} {
		p.must("make a volume", os.Mkdir(dir, 0o755))
	}
	p.must("make a file", os.WriteFile(words, nil, 0o666))
	p.must("make a file", os.WriteFile(filepath.Join(secret, "token"), []byte("first"), 0o644))
	// What is mounted below a read-only volume keeps its own flags.
	below := filepath.Join(secret, "below")
	p.must("make a directory", os.Mkdir(below, 0o755))
	p.must("mount a file system", unix.Mount("tmpfs", below, "tmpfs", 0, ""))
	defer func() { p.must("unmount it", unix.Unmount(below, unix.MNT_DETACH)) }()
	disk := p.loop()
	mounts := func(config *runtime.ContainerConfig) {
		config.Mounts = append(config.Mounts,
			&runtime.Mount{HostPath: words, ContainerPath: "/dev/termination-log"},
			&runtime.Mount{HostPath: secret, ContainerPath: "/var/run/secrets", Readonly: true},
			&runtime.Mount{HostPath: shared, ContainerPath: "/shared"})
	}
	writer := p.start("writer", "echo ready; sleep 100000", mounts, func(config *runtime.ContainerConfig) {
		config.Devices = []*runtime.Device{{HostPath: disk, ContainerPath: "/dev/volume", Permissions: "rw"}}
	}).await("ready")
	reader := p.start("reader", "echo ready; sleep 100000", mounts).await("ready")
	writer.output("echo hello >/shared/file; echo farewell >/dev/termination-log")
	if got := reader.output("cat /shared/file /var/run/secrets/token"); got != "hello\nfirst" {
		p.t.Errorf("the other container reads %q", got)
	}
	if got := writer.output("head -c 5 /dev/volume; printf other | dd of=/dev/volume conv=fsync 2>/dev/null; head -c 5 /dev/volume"); got != "firstother" {
		p.t.Errorf("the block volume has %q", got)
	}
	if got := reader.exec("head -c 5 /dev/volume"); got.ExitCode == 0 {
		p.t.Errorf("another container has the block volume: %q", got.Stdout)
	}
	if got, err := os.ReadFile(words); err != nil || string(got) != "farewell\n" {
		p.t.Errorf("the host reads %q, %v", got, err)
	}
	if got := reader.exec("touch /var/run/secrets/new"); got.ExitCode == 0 {
		p.t.Error("the secret can be written to")
	}
	if got := reader.exec("touch /var/run/secrets/below/new"); got.ExitCode != 0 {
		p.t.Errorf("what is mounted below it cannot: %s", got.Stderr)
	}
	for _, c := range []*container{writer, reader} {
		c.stop(0)
		c.remove()
	}
}

// loop makes a block device that begins with a word, until the test is over.
func (p *pod) loop() string {
	p.t.Helper()
	image := p.h.File("disk-" + p.id)
	p.must("make an image", errors.Join(os.WriteFile(image, []byte("first"), 0o600), os.Truncate(image, 1<<20)))
	output, err := exec.CommandContext(p.t.Context(), "losetup", "--find", "--show", image).Output()
	p.must("make a block device", err)
	device := strings.TrimSpace(string(output))
	p.t.Cleanup(func() {
		if output, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			p.t.Errorf("losetup: %v: %s", err, output)
		}
	})
	return device
}

// limits gives a container limits of its own.
func limits(config *runtime.ContainerConfig) {
	config.Linux.Resources = &runtime.LinuxContainerResources{
		MemoryLimitInBytes: 128 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512,
	}
}

// testUpdate changes a container's limits: first within what a pod's machine has by
// default, then beyond.
func testUpdate(c *container, inMachine bool) {
	c.t.Helper()
	if got := c.output(memoryLimit); got != "134217728\n" {
		c.t.Errorf("the memory limit is %q", got)
	}
	do(c.kubelet, c.UpdateContainerResources, &runtime.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: 192 << 20, CpuPeriod: 100000, CpuQuota: 70000},
	})
	if got := c.output(memoryLimit); got != "201326592\n" {
		c.t.Errorf("the memory limit after the update is %q", got)
	}
	const more = 2560 // MiB, many times what the machine has
	do(c.kubelet, c.UpdateContainerResources, &runtime.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: more << 20, CpuPeriod: 100000, CpuQuota: 70000},
	})
	if got := c.output(memoryLimit); got != fmt.Sprintln(more<<20) {
		c.t.Errorf("the memory limit after the machine has grown is %q", got)
	}
	if got := c.freeMemory(); inMachine && got < more {
		c.t.Errorf("the machine has %d MiB of free memory, and its container may use %d", got, more)
	}
}

// freeMemory is how much memory the kernel has that the container sees, in MiB.
func (c *container) freeMemory() int {
	c.t.Helper()
	kib, err := strconv.Atoi(strings.TrimSpace(c.output("awk '/^MemFree:/ {print $2}' /proc/meminfo")))
	c.must("read the free memory", err)
	return kib >> 10
}

// testForward reaches a server through kubelet's port-forward.
func (p *pod) testForward(port int, name string) {
	p.t.Helper()
	answer := do(p.kubelet, p.PortForward, &runtime.PortForwardRequest{PodSandboxId: p.id, Port: []int32{int32(port)}})
	forward, err := client.OpenForward(p.bounded(), fmt.Sprintf("%s?port=%d", answer.Url, port))
	p.must("forward a port", err)
	_, err = forward.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	p.must("write", err)
	p.h.Expect(forward, "\r\n\r\n"+name+"\n")
	p.must("close", forward.Close())
}
