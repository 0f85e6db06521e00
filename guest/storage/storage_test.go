package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

func TestParseOptions(t *testing.T) {
	for name, test := range map[string]struct {
		options []string
		flags   uintptr
		data    string
	}{
		"none":       {nil, 0, ""},
		"flags":      {[]string{"ro", "nosuid", "nodev"}, unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV, ""},
		"last wins":  {[]string{"ro", "rw", "suid", "nosuid"}, unix.MS_NOSUID, ""},
		"data":       {[]string{"trans=virtio", "noatime", "", "msize=65536"}, unix.MS_NOATIME, "trans=virtio,msize=65536"},
		"tmpfs size": {[]string{"size=64m", "mode=1777"}, 0, "size=64m,mode=1777"},
	} {
		t.Run(name, func(t *testing.T) {
			flags, data := parseOptions(test.options)
			if flags != test.flags || data != test.data {
				t.Fatalf("parseOptions(%q) = %#x, %q; want %#x, %q", test.options, flags, data, test.flags, test.data)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	for name, err := range map[string]error{
		"share type":         MountShare(&protocol.Share{Tag: "x", Fstype: "nfs", MountPoint: dir}),
		"share target":       MountShare(&protocol.Share{Tag: "x", Fstype: "virtiofs", MountPoint: "relative"}),
		"driver":             Mount(t.Context(), &protocol.Storage{Driver: "floppy", MountPoint: dir}),
		"disk type":          Mount(t.Context(), &protocol.Storage{Driver: "disk", Source: "disk-1", MountPoint: dir}),
		"disk target":        Mount(t.Context(), &protocol.Storage{Driver: "disk", Source: "disk-1", Fstype: "ext4", MountPoint: "relative"}),
		"overlay of nothing": Mount(t.Context(), &protocol.Storage{Driver: "overlay", MountPoint: dir}),
		"overlay without a work directory": Mount(t.Context(), &protocol.Storage{
			Driver: "overlay", MountPoint: dir, Lower: []*protocol.StoragePlace{{MountPoint: dir}}, Upper: &protocol.StoragePlace{MountPoint: dir},
		}),
		"overlay target":             Mount(t.Context(), &protocol.Storage{Driver: "overlay", MountPoint: "relative", Lower: []*protocol.StoragePlace{{MountPoint: dir}}}),
		"overlay of a relative path": Mount(t.Context(), &protocol.Storage{Driver: "overlay", MountPoint: dir, Lower: []*protocol.StoragePlace{{MountPoint: "x"}}}),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
}

func TestUnmountAndFlushOfWhatIsGone(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	if err := Flush(gone); err != nil {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		if err := Unmount(gone); err != nil {
			t.Error(err)
		}
	}
}
