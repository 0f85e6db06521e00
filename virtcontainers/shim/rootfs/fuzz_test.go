package rootfs

import (
	"strings"
	"testing"
)

// FuzzOptions: what containerd asks for a mount.
func FuzzOptions(f *testing.F) {
	f.Add("rbind\nro\nlowerdir=/a:/b,upperdir=/c")
	f.Add("uidmap=0:1000:1\ngidmap=0:1000:1,1:5:7")
	f.Add("uidmap=0:-1:4294967296")
	f.Add("loop\nX-containerd.mkdir\nremount")
	f.Fuzz(func(t *testing.T, list string) {
		o, err := parseOptions(strings.Split(list, "\n"))
		if err != nil {
			return
		}
		if (o.uids == nil) != (o.gids == nil) {
			t.Errorf("%+v", o)
		}
		for _, m := range append(o.uids, o.gids...) {
			if m.ContainerID < 0 || m.HostID < 0 || m.Size < 0 {
				t.Errorf("%+v", m)
			}
		}
	})
}
