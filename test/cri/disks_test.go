//go:build vm

package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The handlers whose snapshotters keep root file systems on disks: a single one, in
// pods that have a sandbox container, and layers, in pods that have none.
const (
	blockfileHandler = "kata-blockfile"
	erofsHandler     = "kata-erofs"
)

// diskContainerd is a containerd 2 with these handlers.
type diskContainerd struct{ containerd }

func (diskContainerd) handlers() []string { return []string{blockfileHandler, erofsHandler} }

func (c diskContainerd) programs(t testing.TB) []string {
	t.Helper()
	return append(c.containerd.programs(t), "mkfs.ext4", "mkfs.erofs")
}

func (c diskContainerd) settings(k *kubelet, networks string) string {
	k.t.Helper()
	scratch := filepath.Join(k.dir, "scratch")
	k.call("truncate", "-s", "32M", scratch)
	k.call("mkfs.ext4", "-q", scratch)
	const runtimes = `plugins."io.containerd.cri.v1.runtime".containerd.runtimes.`
	return strings.Replace(c.containerd.settings(k, networks), ", 'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.erofs'", "", 1) +
		c.shimTable(runtimes+blockfileHandler, "  snapshotter = \"blockfile\"\n") +
		c.shimTable(runtimes+erofsHandler, "  snapshotter = \"erofs\"\n  sandboxer = \"shim\"\n  disable_pause_image_pull = true\n") + `
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = "` + scratch + `"
  fs_type = "ext4"
  recreate_scratch = true
[plugins."io.containerd.snapshotter.v1.erofs"]
  default_size = "32MiB"
`
}

// TestDisks takes pods through their lives whose containers' root file systems are
// on disks: the guest mounts them, and the host does not.
func TestDisks(t *testing.T) {
	k := newKubelet(t, diskContainerd{2})
	for _, handler := range k.handlers() {
		t.Run(handler, func(t *testing.T) { testDisks(k.in(t), handler) })
	}
}

func testDisks(k *kubelet, handler string) {
	k.t.Helper()
	p := k.run(handler, k.podConfig("pod-"+handler))
	const script = "trap 'exit 3' TERM; echo ready; while :; do sleep 100000 & wait $!; done"
	first := p.start("first", script).await("ready")
	want := map[string]string{blockfileHandler: "ext4", erofsHandler: "overlay"}[handler]
	if got := first.output("awk '$2 == \"/\" {print $3}' /proc/mounts"); got != want+"\n" {
		k.t.Errorf("the root is %q, not %s", got, want)
	}
	before := first.disks()
	second := p.start("second", script).await("ready")
	more := map[string]int{blockfileHandler: 1, erofsHandler: 1}[handler] // of erofs the writable layer alone
	if got := first.disks(); got != before+more {
		k.t.Errorf("the second container has brought %d disks", got-before)
	}
	for _, c := range []*container{first, second} {
		if got := c.output("cat /etc/group | head -1; echo own >/own; rm /home -r; mv /etc/passwd /etc/moved; mkfifo /fifo; " +
			"touch /bin/new; chown 7:8 /bin/new; stat -c %u:%g /bin/new; ls /home 2>&1; cat /own"); got != "root:x:0:\n7:8\nls: /home: No such file or directory\nown\n" {
			k.t.Errorf("changes: %q", got)
		}
		if got := c.output("dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null; rm /big; cat /own"); got != "own\n" { // larger than the disk
			k.t.Errorf("a full disk: %q", got)
		}
	}
	if left := k.hostMounts(); len(left) > 0 {
		k.t.Errorf("the host has mounted %v", left)
	}
	second.stop(60)
	second.ended(3, "Error")
	second.remove()
	if got := first.disks(); got != before {
		k.t.Errorf("%d disks of the removed container are left", got-before)
	}
	restricted := p.start("restricted", script, func(config *runtime.ContainerConfig) {
		config.Linux.SecurityContext.ReadonlyRootfs = true
	}).await("ready")
	if got := restricted.exec("touch /new 2>&1"); string(got.Stdout) != "touch: /new: Read-only file system\n" {
		k.t.Errorf("a read-only root: %q", got.Stdout)
	}
	p.remove() // with its running containers
}

// disks is how many the guest has.
func (c *container) disks() int {
	c.t.Helper()
	text := strings.TrimSpace(c.output("grep -c ' vd' /proc/partitions || true"))
	n, err := strconv.Atoi(text)
	c.must("count the disks", err)
	return n
}

// hostMounts finds what the host's kernel has mounted of the manager's disks, in
// whatever mount namespace: by a loop device, or as a file.
func (k *kubelet) hostMounts() []string {
	k.t.Helper()
	var found []string
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	k.must("list loop devices", err)
	for _, path := range devices {
		if file, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(file), k.dir) { // it may go
			found = append(found, strings.TrimSpace(string(file)))
		}
	}
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	k.must("list mounts", err)
	for _, path := range tables {
		table, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(table)) {
			if _, after, _ := strings.Cut(line, " - "); strings.HasPrefix(after, "erofs ") && strings.Contains(after, k.dir) {
				found = append(found, fmt.Sprintf("%s: %s", path, line))
			}
		}
	}
	return found
}
