package fileserver

import (
	"slices"
	"testing"
	"time"

	"kata-runtime/hypervisor/fileserver/passthrough"
	"kata-runtime/hypervisor/jail"
)

// What the host forbids is left out of the server's jail too, and the limit of open files
// is the one that this host has room for.
func TestServersJail(t *testing.T) {
	without := []string{jail.PartKeyring, "net"}
	spec := confined(Options{SharedDir: "/shared", Jail: &jail.Options{Without: without}, limit: 1000})
	if spec.MaxFiles != 1000 {
		t.Errorf("it may have %d files open", spec.MaxFiles)
	}
	if !slices.Equal(spec.Without, without) {
		t.Errorf("left out of the jail: %q, want %q", spec.Without, without)
	}
	if spec := confined(Options{SharedDir: "/shared"}); spec != nil {
		t.Errorf("unconfined, it has the jail %+v", spec)
	}
}

// How long names hold in a volume, in a root file system and in the share above them is
// what the mode says.
func TestCacheModes(t *testing.T) {
	for mode, want := range map[string]struct{ volume, root, share time.Duration }{
		CacheNever: {0, 0, 0}, CacheMetadata: {0, moment, moment}, CacheAuto: {0, moment, moment}, CacheBrief: {0, moment, moment}, CacheRelaxed: {moment, moment, moment},
		CacheAlways: {24 * time.Hour, 24 * time.Hour, 24 * time.Hour},
	} {
		s := settings{Cache: mode, Private: []string{"*/rootfs"}, Steady: true}
		o, err := s.options()
		if err != nil {
			t.Fatal(err)
		}
		of := func(mountPoint string) passthrough.Cache {
			if o.CacheFor != nil {
				if c, ok := o.CacheFor(mountPoint); ok {
					return c
				}
			}
			return o.Cache
		}
		volume, root, share := of("container/mounts/1"), of("container/rootfs"), of(passthrough.RootMount)
		if volume.Entries != want.volume || root.Entries != want.root || share.Entries != want.share {
			t.Errorf("%s: names hold for %v in a volume, %v in a root file system and %v in the share, want %v",
				mode, volume.Entries, root.Entries, share.Entries, want)
		}
		if volume.Paths != (mode == CacheBrief) || root.Paths || share.Paths {
			t.Errorf("%s: names of directories hold briefly: %t in a volume, %t in a root file system and %t in the share",
				mode, volume.Paths, root.Paths, share.Paths)
		}
		if mode == CacheAuto && share.Missing > 0 {
			t.Errorf("%s: a container that comes is missing for %v", mode, share.Missing)
		}
	}
	if _, err := (&settings{Cache: "none"}).options(); err == nil {
		t.Error("an unknown mode was taken")
	}
}
