package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// fakeHost has the files that it lists.
type fakeHost struct {
	files map[string]fakeFile
	links map[string]string
	tmpfs map[string]uint64
}

type fakeFile struct {
	mode fs.FileMode
	rdev uint64
}

func (f fakeFile) Name() string       { return "" }
func (f fakeFile) Size() int64        { return 0 }
func (f fakeFile) Mode() fs.FileMode  { return f.mode }
func (f fakeFile) ModTime() time.Time { return time.Time{} }
func (f fakeFile) IsDir() bool        { return f.mode.IsDir() }
func (f fakeFile) Sys() any           { return &syscall.Stat_t{Rdev: f.rdev} }

func (h fakeHost) Stat(path string) (fs.FileInfo, error) {
	file, ok := h.files[path]
	if !ok {
		return nil, &os.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
	}
	return file, nil
}

func (h fakeHost) Resolve(path string) (string, error) {
	if target, ok := h.links[path]; ok {
		path = target
	}
	if _, err := h.Stat(path); err != nil {
		return "", err
	}
	return path, nil
}

func (h fakeHost) TmpfsSize(path string) (uint64, error) {
	if _, err := h.Stat(path); err != nil {
		return 0, err
	}
	return h.tmpfs[path], nil
}

func testHost() fakeHost {
	dir := fakeFile{mode: fs.ModeDir}
	char := func(major, minor uint32) fakeFile {
		return fakeFile{mode: fs.ModeDevice | fs.ModeCharDevice, rdev: unix.Mkdev(major, minor)}
	}
	return fakeHost{
		files: map[string]fakeFile{
			"/data": dir, "/bundle/etc/hosts": {}, "/x": dir,
			"/proc": dir, "/proc/1/root": dir, "/proc/meminfo": {}, "/sys": dir, "/sys/fs/cgroup": dir, "/sys/firmware": dir,
			"/dev": dir, "/dev/shm": dir, "/dev/shm/data": dir, "/dev/pts": dir, "/dev/dri": dir, "/dev/file": {},
			"/dev/null": char(1, 3), "/dev/kvm": char(10, 232), "/var/null": char(1, 3),
			"/dev/sda": {mode: fs.ModeDevice, rdev: unix.Mkdev(8, 0)}, "/run/log": {mode: fs.ModeSocket},
			"/pod/shm": dir,
		},
		links: map[string]string{"/link-to-sys": "/sys/firmware", "/dev/log": "/run/log", "/proc/self/root": "/proc/1/root"},
		tmpfs: map[string]uint64{"/pod/shm": 64 << 20, "/dev/shm": 1 << 30},
	}
}

func transformMount(m specs.Mount) (*GuestSpec, error) {
	spec := baseSpec()
	spec.Mounts = []specs.Mount{m}
	return transform(spec, testOptions(), testHost())
}

func TestMountsThatTheGuestMakes(t *testing.T) {
	tests := []struct{ name, source, destination, options, want string }{
		// want is "type source destination options" of the guest's mount.
		{"bind in /proc", "/proc/meminfo", "/m", "bind", "bind /proc/meminfo /m bind"},
		{"/proc", "/proc", "/host/proc", "rbind,ro", "bind /proc /host/proc rbind,ro"},
		{"/sys", "/sys", "/sys", "rbind,rprivate", "bind /sys /sys rbind,rprivate"},
		{"a link into /sys", "/link-to-sys", "/m", "bind", "bind /sys/firmware /m bind"},
		{"the cgroups", "/sys/fs/cgroup", "/sys/fs/cgroup", "rbind,ro,rslave", "cgroup " + "cgroup /sys/fs/cgroup ro"},
		{"/dev", "/dev", "/dev", "rbind", "bind /dev /dev rbind"},
		{"/dev/pts", "/dev/pts", "/dev/pts", "rbind", "bind /dev/pts /dev/pts rbind"},
		{"a device", "/dev/null", "/proc/kcore", "bind", "bind /dev/null /proc/kcore bind"},
		{"a device elsewhere", "/var/null", "/m", "bind", "bind /dev/null /m bind"},
		{"no option at all", "/pod/shm", "/dev/shm", "rbind,defaults", "tmpfs shm /dev/shm mode=1777,size=67108864"},
		{"shared memory", "/pod/shm", "/dev/shm", "rbind,rprivate,nosuid,nodev", "tmpfs shm /dev/shm nosuid,nodev,mode=1777,size=67108864"},
		{"the host's shared memory", "/dev/shm", "/dev/shm", "bind", "tmpfs shm /dev/shm mode=1777,size=1073741824"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			guest, err := transformMount(specs.Mount{
				Type: "bind", Source: test.source, Destination: test.destination, Options: strings.Split(test.options, ","),
			})
			if err != nil {
				t.Fatal(err)
			}
			m := guest.Spec.Mounts[0]
			if got := fmt.Sprintf("%s %s %s %s", m.Type, m.Source, m.Destination, strings.Join(m.Options, ",")); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if len(guest.Binds) != 0 {
				t.Errorf("binds = %+v", guest.Binds)
			}
		})
	}
}

func TestBindsThatAreShared(t *testing.T) {
	tests := []struct {
		name  string
		mount specs.Mount
		want  Bind
	}{
		{"plain", specs.Mount{Type: "bind", Source: "/data", Options: []string{"rbind"}}, Bind{Source: "/data", Recursive: true}},
		{"relative", specs.Mount{Type: "bind", Source: "etc/hosts", Options: []string{"bind", "ro"}}, Bind{Source: "/bundle/etc/hosts", ReadOnly: true}},
		{"without the option", specs.Mount{Type: "bind", Source: "/data"}, Bind{Source: "/data"}},
		{"without the type", specs.Mount{Type: "none", Source: "/data", Options: []string{"rbind"}}, Bind{Source: "/data", Recursive: true}},
		{"last one wins", specs.Mount{Type: "bind", Source: "/data", Options: []string{"bind", "ro", "rw", "rslave", "rprivate"}}, Bind{Source: "/data"}},
		{"recursively read-only", specs.Mount{Type: "bind", Source: "/data", Options: []string{"rbind", "rro"}}, Bind{Source: "/data", Recursive: true, ReadOnly: true, RecursiveReadOnly: true}},
		{"slave", specs.Mount{Type: "bind", Source: "/data", Options: []string{"rbind", "rslave"}}, Bind{Source: "/data", Recursive: true, Follow: true}},
		{"a socket behind a link", specs.Mount{Type: "bind", Source: "/dev/log", Options: []string{"bind"}}, Bind{Source: "/dev/log"}},
		{"a file in /dev", specs.Mount{Type: "bind", Source: "/dev/file", Options: []string{"bind"}}, Bind{Source: "/dev/file"}},
		{"data in /dev/shm", specs.Mount{Type: "bind", Source: "/dev/shm/data", Options: []string{"bind"}}, Bind{Source: "/dev/shm/data"}},
		{"a directory on /dev/shm", specs.Mount{Type: "bind", Source: "/data", Destination: "/dev/shm", Options: []string{"bind"}}, Bind{Source: "/data", Destination: "/dev/shm"}},
		{"relative destination", specs.Mount{Type: "bind", Source: "/data", Destination: "a/../../b", Options: []string{"bind"}}, Bind{Source: "/data", Destination: "/b"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.mount.Destination == "" {
				test.mount.Destination, test.want.Destination = "/m", "/m"
			}
			guest, err := transformMount(test.mount)
			if err != nil {
				t.Fatal(err)
			}
			test.want.GuestSource = "/run/kata/shared/c1/mounts/0"
			if diff := cmp.Diff([]Bind{test.want}, guest.Binds); diff != "" {
				t.Error(diff)
			}
			m := guest.Spec.Mounts[0]
			if m.Type != "bind" || m.Source != test.want.GuestSource || m.Destination != test.want.Destination || !hasOption(&m, "bind", "rbind") {
				t.Errorf("guest's mount = %+v", m)
			}
		})
	}
}

func TestBindsAreNumbered(t *testing.T) {
	spec := baseSpec()
	spec.Mounts = []specs.Mount{
		{Type: "proc", Destination: "/proc", Source: "proc"},
		{Type: "bind", Destination: "/a", Source: "/data", Options: []string{"bind"}},
		{Type: "bind", Destination: "/b", Source: "/sys", Options: []string{"bind"}},
		{Type: "bind", Destination: "/c", Source: "/x", Options: []string{"bind"}},
	}
	guest, err := transform(spec, testOptions(), testHost())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, b := range guest.Binds {
		if b.Index != i {
			t.Errorf("bind %d has the index %d", i, b.Index)
		}
		got = append(got, b.Destination+" "+b.GuestSource)
	}
	if diff := cmp.Diff([]string{"/a /run/kata/shared/c1/mounts/0", "/c /run/kata/shared/c1/mounts/1"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestGuestFileSystems(t *testing.T) {
	for _, kind := range []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"} {
		guest, err := transformMount(specs.Mount{Type: kind, Destination: "/m", Source: kind, Options: []string{"nosuid", "context=x"}})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		want := strings.TrimSuffix(kind, "2")
		m := guest.Spec.Mounts[0]
		if m.Type != want || len(m.Options) != 1 || len(guest.Dropped) != 1 {
			t.Errorf("%s became %+v, dropped %q", kind, m, guest.Dropped)
		}
	}
}

func TestSharedPropagationIsNoted(t *testing.T) {
	guest, err := transformMount(specs.Mount{Type: "bind", Destination: "/m", Source: "/data", Options: []string{"rbind", "rshared"}})
	if err != nil {
		t.Fatal(err)
	}
	if !guest.Binds[0].Follow || len(guest.Dropped) != 1 || !strings.HasPrefix(guest.Dropped[0], "mounts[0].options: shared") {
		t.Errorf("binds = %+v, dropped %q", guest.Binds, guest.Dropped)
	}
}

func TestMountErrors(t *testing.T) {
	bind := func(source string) specs.Mount {
		return specs.Mount{Type: "bind", Destination: "/m", Source: source, Options: []string{"bind"}}
	}
	mapped := bind("/data")
	mapped.Options = append(mapped.Options, "idmap")
	tests := []struct {
		name  string
		mount specs.Mount
		want  string
		is    error
	}{
		{"no source", bind(""), "source", nil},
		{"missing source", bind("/none"), "/none", fs.ErrNotExist},
		{"missing relative source", bind("none"), "/bundle/none", fs.ErrNotExist},
		{"missing shared memory", specs.Mount{Type: "bind", Destination: "/dev/shm", Source: "/none"}, "/none", fs.ErrNotExist},
		{"unknown device", bind("/dev/kvm"), "10:232", ErrUnsupported},
		{"block device", bind("/dev/sda"), "block device 8:0", ErrUnsupported},
		{"device directory", bind("/dev/dri"), "/dev/dri", ErrUnsupported},
		{"a process's file", bind("/proc/1/root"), "host process", ErrUnsupported},
		{"a process's file by a link", bind("/proc/self/root"), "host process", ErrUnsupported},
		{"idmap", mapped, "id-mapped", ErrUnsupported},
		{"disk", specs.Mount{Type: "ext4", Destination: "/m", Source: "/dev/sda"}, `"ext4"`, ErrUnsupported},
		{"overlay", specs.Mount{Type: "overlay", Destination: "/m", Source: "overlay"}, `"overlay"`, ErrUnsupported},
		{"no type", specs.Mount{Destination: "/m", Source: "/data"}, "type", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := transformMount(test.mount)
			if err == nil || !strings.Contains(err.Error(), "mounts[0] ("+test.mount.Destination+")") || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error = %v", err)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v is not %v", err, test.is)
			}
		})
	}
}

// TestRealHost looks at files that every Linux has.
func TestRealHost(t *testing.T) {
	var h realHost
	info, err := h.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if own, err := guestDeviceNode("/dev/null", info); err != nil || own != "/dev/null" {
		t.Errorf("/dev/null is %q, %v", own, err)
	}
	if size, err := h.TmpfsSize("/proc"); err != nil || size != 0 {
		t.Errorf("/proc is a tmpfs of %d bytes, %v", size, err)
	}
	if _, err := h.TmpfsSize("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("TmpfsSize of nothing: %v", err)
	}
	dir := t.TempDir()
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	resolved, err := h.Resolve(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := h.Resolve(dir + "/link"); err != nil || got != resolved {
		t.Errorf("Resolve = %s, %v", got, err)
	}
}
