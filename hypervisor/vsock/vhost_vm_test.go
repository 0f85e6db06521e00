//go:build vm

package vsock_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// TestVhostKernel runs the tests behind the tag vhost in a VM whose kernel has
// vhost-vsock. No VM runs inside of it: the tests play the guests themselves.
func TestVhostKernel(t *testing.T) {
	vmlinuz, modules := kernel(t)
	tests := cpio.StaticFile("vhost.test", static(t, "test", "-c", "-tags", "vhost", "."), 0o755)
	image := initrd(t, modules, []string{
		"net/vmw_vsock/vsock.ko", "drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko",
		"net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
		"drivers/vhost/vhost_iotlb.ko", "drivers/vhost/vhost.ko", "drivers/vhost/vhost_vsock.ko",
	}, tests)
	console := filepath.Join(t.ArtifactDir(), "console")
	cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64",
		"-nodefaults", "-no-user-config", "-nographic", "-accel", "tcg", "-machine", "q35", "-m", "512M", "-smp", "1,maxcpus=2",
		"-kernel", vmlinuz, "-initrd", image, "-append", "console=ttyS0 panic=-1 quiet -- vhost", "-no-reboot",
		"-serial", "file:"+console)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "vhost tests passed") {
		t.Errorf("console:\n%s", out)
	}
}
