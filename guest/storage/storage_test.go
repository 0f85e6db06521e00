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
		"share type":   MountShare(&protocol.Share{Tag: "x", Fstype: "nfs", MountPoint: dir}),
		"share target": MountShare(&protocol.Share{Tag: "x", Fstype: "virtiofs", MountPoint: "relative"}),
		"driver":       Mount(t.Context(), &protocol.Storage{Driver: "floppy", MountPoint: dir}),
		"block type":   Mount(t.Context(), &protocol.Storage{Driver: "block", Source: "/dev/vda", MountPoint: dir}),
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
