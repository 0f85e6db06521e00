package rootfs_test

import (
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"

	"kata-runtime/virtcontainers/shim/rootfs"
)

func TestAsDisk(t *testing.T) {
	for _, test := range []struct {
		mounts []*types.Mount
		want   *rootfs.Disk
	}{
		{nil, nil},
		{
			[]*types.Mount{{Type: "ext4", Source: "/dev/mapper/x", Options: []string{"discard"}}},
			&rootfs.Disk{Source: "/dev/mapper/x", Type: "ext4", Options: []string{"discard"}},
		},
		{
			[]*types.Mount{{Type: "xfs", Source: "/dev/mapper/x", Options: []string{"nouuid", "ro"}}},
			&rootfs.Disk{Source: "/dev/mapper/x", Type: "xfs", ReadOnly: true, Options: []string{"nouuid"}},
		},
		{[]*types.Mount{{Type: "ext4", Source: "/var/image", Options: []string{"loop"}}}, &rootfs.Disk{Source: "/var/image", Loop: true, Type: "ext4"}},
		{
			[]*types.Mount{{Type: "erofs", Source: "/var/layer", Options: []string{"loop"}}},
			&rootfs.Disk{Source: "/var/layer", Loop: true, Type: "erofs", ReadOnly: true},
		},
		{[]*types.Mount{{Type: "erofs", Source: "/var/layer"}}, nil},
		{[]*types.Mount{{Type: "ext4", Source: "/dev/x", Options: []string{"uidmap=0:1:1", "gidmap=0:1:1"}}}, nil},
		{[]*types.Mount{{Type: "bind", Source: "/dev/x"}}, nil},
		{[]*types.Mount{{Type: "btrfs", Source: "/dev/x", Options: []string{"subvolid=1"}}}, nil}, // a part of the host's file system
		{[]*types.Mount{{Type: "ext4", Source: "/dev/x"}, {Type: "overlay"}}, nil},
	} {
		disk, ok := rootfs.AsDisk(test.mounts)
		if ok != (test.want != nil) {
			t.Errorf("%v: %v", test.mounts, ok)
			continue
		}
		if ok {
			if diff := cmp.Diff(*test.want, disk); diff != "" {
				t.Errorf("%v (-want +got):\n%s", test.mounts, diff)
			}
		}
	}
}
