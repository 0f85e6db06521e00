//go:build vm

package mountpoint_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/mountpoint"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/share"
)

// TestMake puts the mounts of a container together and looks at what is on the
// host afterwards.
func TestMake(t *testing.T) {
	dir := t.TempDir()
	rootfs, volume, outside := filepath.Join(dir, "rootfs"), filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	file := filepath.Join(dir, "file")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(rootfs, "var"), 0o755), os.MkdirAll(filepath.Join(volume, "there"), 0o755), os.Mkdir(outside, 0o755),
		os.Symlink("../run", filepath.Join(rootfs, "var/run")), os.Mkdir(filepath.Join(rootfs, "run"), 0o755),
		os.Symlink("../../../../../../../../"+outside, filepath.Join(rootfs, "up")), os.Mkdir(filepath.Join(rootfs, "opt"), 0o755),
		os.Symlink("/..", filepath.Join(rootfs, "root")), os.WriteFile(file, nil, 0o600),
		os.MkdirAll(filepath.Join(rootfs, outside), 0o755), // what the link means in the container
	); err != nil {
		t.Fatal(err)
	}
	before := mountInfo(t)
	err := mountpoint.Make(mountpoint.Options{
		Rootfs: rootfs,
		Mounts: []mountpoint.Mount{
			{Destination: "/proc"},
			{Destination: "/proc/acpi"}, // the guest's to make
			{Destination: "/dev"},
			{Destination: "/dev/pts"},
			{Destination: "/data", Source: volume, Recursive: true},
			{Destination: "/data/new/inner", Source: outside},
			{Destination: "/data/memory"},
			{Destination: "/data/memory/below", Source: outside},
			{Destination: "/etc/hosts", Source: file},
			{Destination: "/var/run/secrets/token", Source: file},
			{Destination: "/up/made", Source: outside},
			{Destination: "/root/opt/app", Source: outside},
			{Destination: "/zero", File: true},
		},
		Directories: []string{"/srv/work", "/opt"},
		Nodes: []mountpoint.Node{
			{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Device: unix.Mkdev(1, 3)},
			{Path: "/full", Mode: unix.S_IFCHR | 0o640, Device: unix.Mkdev(1, 7), UID: 7, GID: 8},
			{Path: "/etc/hosts", Mode: unix.S_IFCHR | 0o666},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if after := mountInfo(t); after != before {
		t.Errorf("the host's mounts changed from\n%s\nto\n%s", before, after)
	}
	in := outside[1:]
	want := []string{
		"d data", "d dev", "d etc", "f etc/hosts", "c full", "d opt", "d opt/app", "d proc", "l root", "d run", "d run/secrets", "f run/secrets/token",
		"d srv", "d srv/work", "l up", "d var", "l var/run", "f zero", "d " + in + "/made",
	}
	for parent := in; parent != "."; parent = filepath.Dir(parent) {
		want = append(want, "d "+parent)
	}
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	got := tree(t, rootfs)
	slices.SortFunc(got, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the root file system (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"d memory", "d new", "d new/inner", "d there"}, tree(t, volume)); diff != "" {
		t.Errorf("the volume (-want +got):\n%s", diff)
	}
	if got := tree(t, outside); len(got) > 0 {
		t.Errorf("what is outside has %q", got)
	}
	var stat unix.Stat_t
	if err := unix.Lstat(filepath.Join(rootfs, "full"), &stat); err != nil || stat.Mode != unix.S_IFCHR|0o640 || stat.Rdev != unix.Mkdev(1, 7) || stat.Uid != 7 || stat.Gid != 8 {
		t.Errorf("the device is %+v, %v", stat, err)
	}
}

func TestMakeForARootOfItsOwn(t *testing.T) {
	rootfs := t.TempDir()
	err := mountpoint.Make(mountpoint.Options{Rootfs: rootfs, Directories: []string{"/a/b"}, UID: 1000, GID: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b"} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(rootfs, name), &stat); err != nil || stat.Uid != 1000 || stat.Gid != 2000 {
			t.Errorf("%s: %+v, %v", name, stat, err)
		}
	}
}

// A link that leads nowhere leads somewhere afterwards, as with runc.
func TestMakeBehindLinksThatLeadNowhere(t *testing.T) {
	rootfs := t.TempDir()
	if err := errors.Join(
		os.Symlink("/nowhere/../else", filepath.Join(rootfs, "dangling")), os.Symlink("../../../srv/hosts", filepath.Join(rootfs, "hosts")),
		os.MkdirAll(filepath.Join(rootfs, "a/b"), 0o755), os.Symlink("a/b", filepath.Join(rootfs, "ab")),
		os.Symlink("../c", filepath.Join(rootfs, "a/b/relative")), os.Symlink("/dangling/more", filepath.Join(rootfs, "twice")),
	); err != nil {
		t.Fatal(err)
	}
	err := mountpoint.Make(mountpoint.Options{Rootfs: rootfs, Mounts: []mountpoint.Mount{
		{Destination: "/dangling/below"}, {Destination: "/hosts", File: true}, {Destination: "/ab/relative/x"}, {Destination: "/twice"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"d a", "d a/b", "l a/b/relative", "d a/c", "d a/c/x", "l ab", "l dangling", "d else", "d else/below", "d else/more", "l hosts",
		"d nowhere", "d srv", "f srv/hosts", "l twice",
	}
	if diff := cmp.Diff(want, tree(t, rootfs)); diff != "" {
		t.Errorf("the root file system (-want +got):\n%s", diff)
	}
}

// What cannot be written cannot get a mount point, and needs none that it has.
func TestMakeInWhatIsReadOnly(t *testing.T) {
	dir := t.TempDir()
	rootfs, volume := filepath.Join(dir, "rootfs"), filepath.Join(dir, "volume")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(rootfs, "data"), 0o755), os.MkdirAll(filepath.Join(volume, "there"), 0o755),
		os.Symlink("loop", filepath.Join(rootfs, "loop")), os.WriteFile(filepath.Join(rootfs, "file"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	data := mountpoint.Mount{Destination: "/data", Source: volume, Attributes: share.Attributes{ReadOnly: true}}
	for _, test := range []struct {
		destination string
		want        error
	}{
		{"/data/there", nil}, {"/data/new", unix.EROFS}, {"/loop", unix.ELOOP}, {"/loop/below", unix.ELOOP}, {"/file/below", unix.ENOTDIR},
	} {
		err := mountpoint.Make(mountpoint.Options{Rootfs: rootfs, Mounts: []mountpoint.Mount{data, {Destination: test.destination}}})
		if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.destination) {
			t.Errorf("%s: %v, want %v", test.destination, err, test.want)
		}
	}
}

// tree lists what is in a directory: a letter for the type, and the path.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		kind := "f"
		switch mode := entry.Type(); {
		case mode.IsDir():
			kind = "d"
		case mode&fs.ModeSymlink != 0:
			kind = "l"
		case mode&fs.ModeCharDevice != 0:
			kind = "c"
		}
		relative, err := filepath.Rel(dir, name)
		all = append(all, kind+" "+relative)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mountInfo(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestMakeWhereTheCallerIs has a root file system that only the calling thread's
// mount namespace shows.
func TestMakeWhereTheCallerIs(t *testing.T) {
	dir := t.TempDir()
	rootfs, shown, volume := filepath.Join(dir, "rootfs"), filepath.Join(dir, "shown"), filepath.Join(dir, "volume")
	if err := errors.Join(os.Mkdir(rootfs, 0o755), os.Mkdir(shown, 0o755), os.Mkdir(volume, 0o755)); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	err = namespace.InCopyOfMounts(mounts, func() error {
		if err := unix.Mount(shown, rootfs, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return mountpoint.Make(mountpoint.Options{
			Rootfs: rootfs, Mounts: []mountpoint.Mount{{Destination: "/data", Source: volume}},
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, shown); !slices.Equal(got, []string{"d data"}) {
		t.Errorf("in the root file system that was shown: %q", got)
	}
	if got := tree(t, rootfs); len(got) != 0 {
		t.Errorf("in the directory below it: %q", got)
	}
}
