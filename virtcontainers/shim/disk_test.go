package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	"kata-runtime/guest/protocol"
)

// erofs is a list of mounts of containerd's erofs snapshotter, of files that are made.
func (f *fixture) erofs(name string) []*types.Mount {
	f.t.Helper()
	for _, file := range []string{"layer", "writable-" + name} {
		if err := os.WriteFile(f.path(file), make([]byte, 4096), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	return []*types.Mount{
		{Type: "ext4", Source: f.path("writable-" + name), Options: []string{"rw", "loop"}},
		{Type: "erofs", Source: f.path("layer"), Options: []string{"ro", "loop"}},
		{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
			"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
			"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ mount 1 }}",
		}},
	}
}

// A root file system on disks is the guest's to mount: the host does not. A layer is
// plugged in once for the pod.
func TestRootOnDisks(t *testing.T) {
	f := serve(t)
	f.guest.Machine.Slots, f.holders.real = 3, true
	var made []*protocol.CreateContainerRequest
	f.guest.On("CreateContainer", func(_ context.Context, request any) error {
		made = append(made, request.(*protocol.CreateContainerRequest)) //nolint:forcetypeassert // the method's
		return nil
	})
	request := f.request("c1")
	request.Rootfs = f.erofs("c1")
	if _, err := f.Create(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	request = f.request("c2", f.member())
	request.Rootfs = f.erofs("c2")
	if _, err := f.Create(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	var layers []string
	for _, r := range made {
		var spec specs.Spec
		if err := json.Unmarshal(r.GetSpecJson(), &spec); err != nil {
			t.Fatal(err)
		}
		storages := r.GetStorages()
		if len(storages) != 3 || storages[2].GetMountPoint() != spec.Root.Path || !strings.HasPrefix(spec.Root.Path, protocol.RootMountPoint+"/") {
			t.Fatalf("the root is %s, the storages are %v", spec.Root.Path, storages)
		}
		layers = append(layers, storages[1].GetSource())
	}
	if layers[0] == "" || layers[0] != layers[1] {
		t.Errorf("the layer is the disks %q", layers)
	}
	if n := len(f.guest.Machine.Attached()); n != 3 {
		t.Errorf("the machine has %d disks", n)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "erofs") || strings.Contains(string(mounts), f.path("bundle-c1")) {
		t.Errorf("the host has mounted it: %s, %v", mounts, err)
	}
	f.remove("c2", "")
	if n := len(f.guest.Machine.Attached()); n != 2 {
		t.Errorf("the machine has %d disks", n)
	}
	f.remove("c1", "")
	f.nothingOnHost()
	if n := len(f.guest.Machine.Attached()); n != 0 {
		t.Errorf("the machine has %d disks", n)
	}
}

// What cannot be done, or goes wrong on the way, leaves nothing.
func TestRootOnDisksFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fixture, []*types.Mount)
		code   codes.Code
		texts  []string
	}{
		"snapshot is gone":  {func(f *fixture, m []*types.Mount) { m[1].Source = f.path("gone") }, codes.NotFound, []string{"root file system", "gone"}},
		"no disk":           {func(f *fixture, m []*types.Mount) { m[1].Source = f.dir }, codes.InvalidArgument, []string{"neither a block device"}},
		"no writable disk":  {func(_ *fixture, m []*types.Mount) { m[2].Options[3] = "upperdir=/fs" }, codes.InvalidArgument, []string{"default_size"}},
		"no room":           {func(f *fixture, _ []*types.Mount) { f.guest.Machine.Slots = 1 }, codes.Unknown, []string{"plug in image file"}},
		"the guest refuses": {func(f *fixture, _ []*types.Mount) { f.guest.Refuse("CreateContainer", errors.New("no erofs")) }, codes.Unknown, []string{"no erofs"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			f.guest.Machine.Slots = 2
			request := f.request("c1")
			request.Rootfs = f.erofs("c1")
			c.change(f, request.GetRootfs())
			before := openFiles(t)
			_, err := f.Create(f.ctx(), request)
			refused(t, err, c.code, c.texts...)
			f.nothingOnHost()
			if n := len(f.guest.Machine.Attached()); n != 0 {
				t.Errorf("the machine has %d disks", n)
			}
			for _, file := range openFiles(t) {
				if strings.HasPrefix(file, f.dir) && !strings.Contains(strings.Join(before, " "), file) {
					t.Errorf("%s is still open", file)
				}
			}
		})
	}
}

// openFiles are those of this process.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, entry := range entries {
		if path, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name())); err == nil {
			files = append(files, path)
		}
	}
	return files
}
