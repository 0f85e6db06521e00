package bundle

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/oci"
)

func TestHostPaths(t *testing.T) {
	b := &Bundle{Rootfs: "/bundle/rootfs", Guest: &oci.GuestSpec{Spec: &specs.Spec{Root: &specs.Root{Path: "/share/c/rootfs"}}}}
	for i := range 11 {
		b.Guest.Binds = append(b.Guest.Binds, oci.Bind{
			Index: i, GuestSource: fmt.Sprintf("/share/c/mounts/%d", i), Source: fmt.Sprintf("/data/%d", i*i),
		})
	}
	cause := errors.New(`mount "/share/c/mounts/10" to rootfs "/share/c/rootfs" beside /share/c/mounts/1`)
	err := b.HostPaths(fmt.Errorf("create: %w", cause))
	if want := `create: mount "/data/100" to rootfs "/bundle/rootfs" beside /data/1`; err.Error() != want || !errors.Is(err, cause) {
		t.Errorf("error %q, want %q", err, want)
	}
	if err := b.HostPaths(nil); err != nil {
		t.Errorf("no error becomes %v", err)
	}
	other := errors.New("about something else")
	if err := b.HostPaths(other); !errors.Is(err, other) || err.Error() != other.Error() {
		t.Errorf("another error becomes %v", err)
	}
	b.GuestRoot = "/root/of/the/guest"
	if err := b.HostPaths(errors.New("/share/c/rootfs")); err.Error() != "/share/c/rootfs" {
		t.Errorf("the guest's own root becomes %v", err)
	}
}
