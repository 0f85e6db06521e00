package rootfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/shim/rootfs"
)

// serials are those of as many disks as a list has.
func serials() []string { return []string{"disk-0", "disk-1", "disk-2", "disk-3"} }

// place is a part of a layer of the container c.
func place(layer, path string) *protocol.StoragePlace {
	return &protocol.StoragePlace{MountPoint: "/run/kata/roots/c." + layer, Path: path}
}

func TestAsDisks(t *testing.T) {
	erofs := &types.Mount{Type: "erofs", Source: "/var/layer", Options: []string{"ro", "loop"}}
	writable := &types.Mount{Type: "ext4", Source: "/var/rw.img", Options: []string{"rw", "loop"}}
	for name, test := range map[string]struct {
		mounts []*types.Mount
		want   []*protocol.Storage // nil: it is for the host
	}{
		"nothing": {nil, nil},
		"device mapper": {
			[]*types.Mount{{Type: "ext4", Source: "/dev/mapper/x", Options: []string{"discard", "noatime"}}},
			[]*protocol.Storage{{Driver: "disk", Source: "disk-0", Fstype: "ext4", Options: []string{"noatime", "discard"}, MountPoint: "/run/kata/roots/c"}},
		},
		"block file, read-only": {
			[]*types.Mount{{Type: "ext4", Source: "/var/image", Options: []string{"loop", "ro"}}},
			[]*protocol.Storage{{Driver: "disk", Source: "disk-0", Fstype: "ext4", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c"}},
		},
		"one layer": {
			[]*types.Mount{{Type: "erofs", Source: "/var/layer"}},
			[]*protocol.Storage{{Driver: "disk", Source: "disk-0", Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c"}},
		},
		"merged layers": {
			[]*types.Mount{{Type: "erofs", Source: "/var/meta", Options: []string{"ro", "loop", "device=/var/a", "device=/var/b"}}},
			[]*protocol.Storage{{
				Driver: "disk", Source: "disk-0", FurtherDisks: []string{"disk-1", "disk-2"}, Fstype: "erofs", Options: []string{"ro"},
				MountPoint: "/run/kata/roots/c",
			}},
		},
		"overlay": {
			[]*types.Mount{writable, erofs, erofs, {Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
				"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0711:1:2",
				"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}", "index=off",
			}}},
			[]*protocol.Storage{
				{
					Driver: "disk", Source: "disk-0", Fstype: "ext4", MountPoint: "/run/kata/roots/c.0",
					Directories: []*protocol.StorageDirectory{{Path: "/upper", Mode: 0o755}, {Path: "/work", Mode: 0o711, Uid: 1, Gid: 2}},
				},
				{Driver: "disk", Source: "disk-1", Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c.1"},
				{Driver: "disk", Source: "disk-2", Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c.2"},
				{
					Driver: "overlay", Options: []string{"index=off"}, MountPoint: "/run/kata/roots/c",
					Lower: []*protocol.StoragePlace{place("1", ""), place("2", "")}, Upper: place("0", "/upper"), Work: place("0", "/work"),
				},
			},
		},
		"overlay of a view, upside down": {
			[]*types.Mount{erofs, erofs, {Type: "format/overlay", Source: "overlay", Options: []string{"ro", "lowerdir={{overlay 1 0}}:{{ mount 0 }}/x"}}},
			[]*protocol.Storage{
				{Driver: "disk", Source: "disk-0", Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c.0"},
				{Driver: "disk", Source: "disk-1", Fstype: "erofs", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c.1"},
				{
					Driver: "overlay", Options: []string{"ro"}, MountPoint: "/run/kata/roots/c",
					Lower: []*protocol.StoragePlace{place("1", ""), place("0", ""), place("0", "/x")},
				},
			},
		},
		"a part of a new disk": {
			[]*types.Mount{writable, {Type: "format/mkdir/bind", Source: "{{ mount 0 }}/upper", Options: []string{
				"X-containerd.mkdir.path={{ mount 0 }}/upper", "rw", "rbind",
			}}},
			[]*protocol.Storage{
				{
					Driver: "disk", Source: "disk-0", Fstype: "ext4", MountPoint: "/run/kata/roots/c.0",
					Directories: []*protocol.StorageDirectory{{Path: "/upper", Mode: 0o700}},
				},
				{Driver: "directory", Source: "/run/kata/roots/c.0", Path: "/upper", MountPoint: "/run/kata/roots/c"},
			},
		},
		"a file system that the guest lacks": {[]*types.Mount{{Type: "xfs", Source: "/dev/x"}}, nil},
		"id-mapped":                          {[]*types.Mount{{Type: "ext4", Source: "/dev/x", Options: []string{"uidmap=0:1:1", "gidmap=0:1:1"}}}, nil},
		"bind mount":                         {[]*types.Mount{{Type: "bind", Source: "/dev/x"}}, nil},
		"a part of the host's":               {[]*types.Mount{{Type: "btrfs", Source: "/dev/x", Options: []string{"subvolid=1"}}}, nil},
		"overlay of the host's": {
			[]*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b", "upperdir=/c", "workdir=/d"}}}, nil,
		},
		"what the mount manager has resolved": {[]*types.Mount{{Type: "bind", Source: "/a"}, {Type: "tmpfs", Target: "/b"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			disks, err := rootfs.AsDisks(test.mounts)
			if err != nil {
				t.Fatal(err)
			}
			if disks == nil {
				if test.want != nil {
					t.Error("it is left to the host's kernel")
				}
				return
			}
			if diff := cmp.Diff(test.want, disks.Storages("c", serials()), protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAsDisksRefuses(t *testing.T) {
	erofs := &types.Mount{Type: "erofs", Source: "/var/layer", Options: []string{"ro", "loop"}}
	overlay := func(options ...string) []*types.Mount {
		return []*types.Mount{erofs, {Type: "format/mkdir/overlay", Source: "overlay", Options: options}}
	}
	for name, test := range map[string]struct {
		mounts      []*types.Mount
		text        string
		unsupported bool
	}{
		"writable layer of the host": {overlay("lowerdir={{ mount 0 }}", "upperdir=/host/fs", "workdir=/host/work"), "default_size", true},
		"lower layer of the host":    {overlay("lowerdir={{ mount 0 }}:/host/fs"), "/host/fs", true},
		"directory of the host":      {overlay("lowerdir={{ mount 0 }}", "X-containerd.mkdir.path=/host/fs"), "/host/fs", true},
		"id-mapped":                  {overlay("lowerdir={{ mount 0 }}", "uidmap=0:1:1", "gidmap=0:1:1"), "id-mapped", true},
		"no such layer":              {overlay("lowerdir={{ mount 1 }}"), "none has the number 1", false},
		"no such layers":             {overlay("lowerdir={{ overlay 0 9999999999999999999 }}"), "none has the number", false},
		"no lower layer":             {overlay("ro"), "lowerdir", false},
		"no work directory":          {overlay("lowerdir={{ mount 0 }}", "upperdir={{ mount 0 }}/x"), "workdir", false},
		"mode of a directory":        {overlay("lowerdir={{ mount 0 }}", "X-containerd.mkdir.path={{ mount 0 }}/x:9"), "PATH:MODE", false},
		"half an owner":              {overlay("lowerdir={{ mount 0 }}", "X-containerd.mkdir.path={{ mount 0 }}/x:0755:1"), "PATH:MODE", false},
		"another option of the manager's": {
			[]*types.Mount{{Type: "erofs", Source: "/x", Options: []string{"X-containerd.dmverity=/x.dmverity"}}, {Type: "format/bind"}},
			"X-containerd.dmverity", false,
		},
		"another transformation": {[]*types.Mount{erofs, {Type: "format/mkfs/overlay"}}, "mkfs", false},
		"another mount":          {[]*types.Mount{erofs, {Type: "format/tmpfs"}}, "overlay of layers", true},
		"layer in a layer":       {[]*types.Mount{erofs, {Type: "ext4", Source: "/x", Target: "/y"}, {Type: "format/bind"}}, "/y", true},
		"layer of another type":  {[]*types.Mount{{Type: "xfs", Source: "/x"}, {Type: "format/bind", Source: "{{ mount 0 }}"}}, "xfs", true},
		"read-only part":         {[]*types.Mount{{Type: "ext4", Source: "/x"}, {Type: "format/bind", Source: "{{ mount 0 }}", Options: []string{"ro"}}}, "read-only", true},
		"template of something":  {[]*types.Mount{erofs, {Type: "format/bind", Source: "{{ source 0 }}"}}, "{{ source 0 }}", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rootfs.AsDisks(test.mounts)
			if err == nil || !strings.Contains(err.Error(), test.text) || errors.Is(err, oci.ErrUnsupported) != test.unsupported {
				t.Errorf("%v: want %q", err, test.text)
			}
		})
	}
}

// What is opened is a disk, whatever path containerd names.
func TestOpenDisks(t *testing.T) {
	dir := t.TempDir()
	layer, other := filepath.Join(dir, "layer"), filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(layer, make([]byte, 4096), 0o600), os.Link(layer, other)); err != nil {
		t.Fatal(err)
	}
	open := func(mounts ...*types.Mount) ([]device.Image, error) {
		t.Helper()
		disks, err := rootfs.AsDisks(mounts)
		if err != nil || disks == nil {
			t.Fatalf("%v, %v", disks, err)
		}
		return disks.Open(nil)
	}
	images, err := open(&types.Mount{Type: "erofs", Source: layer, Options: []string{"device=" + other}})
	if err != nil {
		t.Fatal(err)
	}
	defer device.CloseImages(images)
	if len(images) != 2 || !images[0].ReadOnly || images[0].Inode == 0 || images[0].Block != images[1].Block {
		t.Errorf("%v", images)
	}
	if _, err := images[0].File.Write([]byte("x")); err == nil {
		t.Error("a layer can be written to")
	}
	for path, want := range map[string]error{
		filepath.Join(dir, "gone"): fs.ErrNotExist, dir: device.ErrNoDisk, os.DevNull: device.ErrNoDisk,
	} {
		if _, err := open(&types.Mount{Type: "ext4", Source: path}); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}
