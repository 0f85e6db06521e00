package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Kubernetes's emptyDir volumes.
const (
	subPathsDir = "/var/lib/kubelet/pods/1/volume-subpaths"
	volumesDir  = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir"
	memoryDir   = volumesDir + "/memory"
	diskDir     = volumesDir + "/disk"
	ramDiskDir  = volumesDir + "/ramdisk"
)

func transformMount(m specs.Mount) (*GuestSpec, error) {
	spec := baseSpec()
	spec.Mounts = []specs.Mount{m}
	return transform(spec, testOptions(), testHost())
}

// TestOverlay: the host mounts the layers, the guest gets what it sees with the
// options of any mount.
func TestOverlay(t *testing.T) {
	layers := []string{"lowerdir=/a:/b", "upperdir=/u", "workdir=/w", "volatile"}
	guest, err := transformMount(specs.Mount{
		Type: "overlay", Source: "overlay", Destination: "m",
		Options: []string{layers[0], "nosuid", layers[1], layers[2], "ro", "private", layers[3]},
	})
	if err != nil {
		t.Fatal(err)
	}
	source := testOptions().SharePath + "/mounts/0"
	if diff := cmp.Diff([]specs.Mount{
		{Type: "bind", Source: source, Destination: "/m", Options: []string{"nosuid", "ro", "private", "bind"}},
	}, guest.Spec.Mounts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Bind{
		{Source: "overlay", Overlay: layers, GuestSource: source, Destination: "/m", ReadOnly: true},
	}, guest.Binds); diff != "" {
		t.Error(diff)
	}
}

func TestMountsThatTheGuestMakes(t *testing.T) {
	tests := []struct{ name, source, destination, options, want string }{
		// want is "type source destination options" of the guest's mount.
		{"bind in /proc", "/proc/meminfo", "/m", "bind", "bind /proc/meminfo /m bind"},
		{"/proc", "/proc", "/host/proc", "rbind,ro", "bind /proc /host/proc rbind,ro"},
		{"/sys", "/sys", "/sys", "rbind,rprivate", "bind /sys /sys rbind,rprivate"},
		{"a link into /sys", "/link-to-sys", "/m", "bind", "bind /sys/firmware /m bind"},
		{"the cgroups", "/sys/fs/cgroup", "/sys/fs/cgroup", "rbind,ro,rslave", "cgroup " + "cgroup /sys/fs/cgroup ro"},
		{"the cgroups elsewhere", "/sys/fs/cgroup", "/host/cgroup", "rbind,ro", "bind /sys/fs/cgroup /host/cgroup rbind,ro"},
		{"/dev", "/dev", "/dev", "rbind", "bind /dev /dev rbind"},
		{"/dev/pts", "/dev/pts", "/dev/pts", "rbind", "bind /dev/pts /dev/pts rbind"},
		{"a device", "/dev/null", "/proc/kcore", "bind", "bind /dev/null /proc/kcore bind"},
		{"a device elsewhere", "/var/null", "/m", "bind", "bind /dev/null /m bind"},
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

func TestMemoryVolumes(t *testing.T) {
	shm := MemoryVolume{
		MountPoint: "/run/kata/memory/a",
		Options:    []string{"nosuid", "nodev", "mode=1777", "uid=0", "gid=0", "size=67108864"},
	}
	emptyDir := MemoryVolume{
		MountPoint: "/run/kata/memory/c", Keep: true, Source: memoryDir, GuestSource: "/run/kata/shared/c1/mounts/memory-0",
		Options: []string{"nosuid", "nodev", "mode=2777", "uid=0", "gid=2000", "size=33554432"},
	}
	second := emptyDir
	second.GuestSource = "/run/kata/shared/c1/mounts/memory-1"
	bind := func(source, destination string, options ...string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: options}
	}
	tests := []struct {
		name    string
		mounts  []specs.Mount
		want    []MemoryVolume // of the pod
		options string         // of the first mount in the guest
		binds   int            // of the share
	}{
		{"shared memory", []specs.Mount{bind("/pod/shm", "/dev/shm", "rbind", "rprivate", "noexec")}, []MemoryVolume{shm}, "noexec,bind", 0},
		{"the host's shared memory", []specs.Mount{bind("/dev/shm", "/dev/shm", "rbind")}, nil, "rbind", 1},
		{"the host's shared memory by a link", []specs.Mount{bind("/link/shm", "/dev/shm", "rbind")}, nil, "rbind", 1},
		{"a user's tmpfs as shared memory", []specs.Mount{bind("/user/memory", "/dev/shm", "rbind")}, nil, "rbind", 1},
		{"the second has content", []specs.Mount{bind("/pod/shm", "/dev/shm"), bind(memoryDir, "/a")}, []MemoryVolume{shm, second}, "bind", 0},
		{"elsewhere", []specs.Mount{bind("/pod/shm", "/m", "rbind")}, nil, "rbind", 1},
		{"no tmpfs", []specs.Mount{bind("/data", "/dev/shm", "rbind")}, nil, "rbind", 1},
		{"emptyDir in memory", []specs.Mount{bind(memoryDir, "/cache", "rbind", "ro")}, []MemoryVolume{emptyDir}, "ro,bind", 0},
		{"emptyDir as shared memory", []specs.Mount{bind(memoryDir, "/dev/shm", "rbind")}, []MemoryVolume{emptyDir}, "bind", 0},
		{"one volume twice", []specs.Mount{bind(memoryDir, "/a", "rbind"), bind(memoryDir, "/b", "rbind")}, []MemoryVolume{emptyDir}, "bind", 0},
		{"emptyDir on disk", []specs.Mount{bind(diskDir, "/cache", "rbind")}, nil, "rbind", 1},
		{"emptyDir on a disk of memory", []specs.Mount{bind(ramDiskDir, "/cache", "rbind")}, nil, "rbind", 1},
		{"directory of an emptyDir", []specs.Mount{bind(memoryDir+"/sub", "/cache", "rbind")}, nil, "rbind", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := baseSpec()
			spec.Mounts = test.mounts
			guest, err := transform(spec, testOptions(), testHost())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, guest.Memory); diff != "" {
				t.Error(diff)
			}
			m := guest.Spec.Mounts[0]
			if m.Type != "bind" || strings.Join(m.Options, ",") != test.options || len(guest.Binds) != test.binds {
				t.Errorf("guest's mount = %+v, %d binds", m, len(guest.Binds))
			}
			if len(test.want) > 0 && m.Source != test.want[0].MountPoint {
				t.Errorf("guest's source = %s, want %s", m.Source, test.want[0].MountPoint)
			}
		})
	}
}

// kubelet mounts a subPath of its own; it is a part of the same volume.
func TestSubPathsOfMemoryVolumes(t *testing.T) {
	spec := baseSpec()
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "ro"}}
	}
	spec.Mounts = []specs.Mount{
		bind(subPathsDir+"/memory/c/0", "/part"), bind(subPathsDir+"/memory/c/1", "/whole"), bind(subPathsDir+"/claim/c/0", "/other"),
	}
	guest, err := transform(spec, testOptions(), testHost())
	if err != nil {
		t.Fatal(err)
	}
	var sources []string
	for _, m := range guest.Spec.Mounts {
		sources = append(sources, m.Source)
	}
	want := []string{"/run/kata/memory-directories/c1.0", "/run/kata/memory/c", "/run/kata/shared/c1/mounts/0"}
	if diff := cmp.Diff(want, sources); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]MemoryDirectory{{MountPoint: want[0], Volume: want[1], Path: "/sub/x"}}, guest.MemoryDirectories); diff != "" {
		t.Error(diff)
	}
	if len(guest.Memory) != 1 || guest.Memory[0].Source != memoryDir || !guest.Memory[0].Keep {
		t.Errorf("volumes: %+v", guest.Memory)
	}
}

func TestVolumePart(t *testing.T) {
	const mountinfo = `21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /pods/1/volumes/kubernetes.io~empty-dir/cache rw - tmpfs none rw,size=1024k
23 21 0:20 /a\040b/c /pods/1/volume-subpaths/cache/main/0 rw - tmpfs none rw,size=1024k
24 21 8:1 /pods/1/volumes/kubernetes.io~empty-dir/disk/d /pods/1/volume-subpaths/disk/main/0 rw - ext4 /dev/sda1 rw
25 21 0:21 /d /pods/1/volume-subpaths/secret/main/0 rw - tmpfs none rw
`
	for path, want := range map[string]volumePart{
		"/pods/1/volume-subpaths/cache/main/0":  {"/pods/1/volumes/kubernetes.io~empty-dir/cache", "/a b/c"},
		"/pods/1/volume-subpaths/disk/main/0":   {},
		"/pods/1/volume-subpaths/secret/main/0": {},
		"/pods/1/volume-subpaths/cache/main/1":  {},
	} {
		if got := volumePartAt(mountinfo, path); got != want {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
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
		{"not only itself", specs.Mount{Type: "bind", Source: "/data", Options: []string{"rbind", "rprivate", "ro", "bind"}}, Bind{Source: "/data", Recursive: true, ReadOnly: true}},
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

// The guest gives what is mounted below a bind the bind's own flags, and so does
// not get "ro" where that is not to be read-only.
func TestReadOnlyAlone(t *testing.T) {
	for _, test := range []struct{ source, options, want string }{
		{"/data", "rbind,ro", "rbind,ro"},
		{"/nested", "rbind,ro", "rbind"},
		{"/link-to-nested", "ro,rbind,nosuid", "rbind,nosuid"},
		{"/nested", "bind,ro", "bind,ro"},
		{"/nested", "rbind,rw", "rbind,rw"},
		{"/nested", "rbind,rro", "rbind,rro"},
		{"/nested", "rbind,ro,rro", "rbind,ro,rro"},
		{"/data", "rbind,ro,rslave", "rbind,rslave"}, // what the host mounts later
	} {
		guest, err := transformMount(specs.Mount{Type: "bind", Destination: "/m", Source: test.source, Options: strings.Split(test.options, ",")})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(guest.Spec.Mounts[0].Options, ","); got != test.want {
			t.Errorf("%s with %s: the guest's options are %s, want %s", test.source, test.options, got, test.want)
		}
		if b := guest.Binds[0]; b.ReadOnly != strings.Contains(test.options, "ro") {
			t.Errorf("%s with %s: on the host %+v", test.source, test.options, b)
		}
	}
}

func TestWritableBelow(t *testing.T) {
	const mountinfo = `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /a rw - tmpfs none rw
23 22 0:21 / /a/b ro,relatime shared:2 - tmpfs none rw
24 22 0:22 / /a/with\040space/c rw,nosuid - tmpfs none rw
25 21 0:23 / /ab rw - tmpfs none rw
26 23 0:24 / /a/b/romantic rw - tmpfs none rw
27 21 0:25 / /d ro - tmpfs none rw
28 27 0:26 / /d/e ro - tmpfs none rw
`
	for path, want := range map[string]bool{
		"/": true, "/a": true, "/a/b": true, "/a/b/romantic": false, "/a/with space": true, "/a/with": false,
		"/ab": false, "/d": false, "/none": false,
	} {
		if got := writableBelow(mountinfo, path); got != want {
			t.Errorf("%s: %t", path, got)
		}
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
		{"device directory", bind("/dev/dri"), "/dev/dri", ErrUnsupported},
		{"a process's file", bind("/proc/1/root"), "host process", ErrUnsupported},
		{"a process's file by a link", bind("/proc/self/root"), "host process", ErrUnsupported},
		{"idmap without a mapping", mapped, "id-mapped", nil},
		{"a mapping of uids alone", specs.Mount{
			Type: "bind", Destination: "/m", Source: "/data", UIDMappings: []specs.LinuxIDMapping{{Size: 1}},
		}, "id-mapped", nil},
		{"id-mapped tmpfs", specs.Mount{Type: "tmpfs", Destination: "/m", UIDMappings: idMap(7), GIDMappings: idMap(7)}, "id-mapped", nil},
		{"disk", specs.Mount{Type: "ext4", Destination: "/m", Source: "/dev/sda"}, `"ext4"`, ErrUnsupported},
		{"id-mapped overlay", specs.Mount{Type: "overlay", Destination: "/m", UIDMappings: idMap(7), GIDMappings: idMap(7)}, "id-mapped", nil},
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

func idMap(host uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: 1000}}
}

// The host maps the ids; the guest sees the result.
func TestIDMappedMounts(t *testing.T) {
	spec := baseSpec()
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = idMap(100), idMap(200)
	bind := specs.Mount{Type: "bind", Destination: "/m", Source: "/data", Options: []string{"bind", "ro"}}
	own, containers, recursive, memory := bind, bind, bind, bind
	own.UIDMappings, own.GIDMappings = idMap(7), idMap(8)
	containers.Options = append(slices.Clone(bind.Options), "idmap")
	recursive.Options = append(slices.Clone(bind.Options), "ridmap")
	memory.Source, memory.UIDMappings, memory.GIDMappings = memoryDir, idMap(7), idMap(8)
	kernel := bind
	kernel.Source, kernel.UIDMappings, kernel.GIDMappings = "/proc/meminfo", idMap(7), idMap(8)
	spec.Mounts = []specs.Mount{own, containers, recursive, bind, memory, kernel}
	guest, err := transform(spec, testOptions(), testHost())
	if err != nil {
		t.Fatal(err)
	}
	var got []*IDMapping
	for _, b := range guest.Binds {
		got = append(got, b.IDMapping)
	}
	want := []*IDMapping{
		{UIDs: idMap(7), GIDs: idMap(8)},
		{UIDs: idMap(100), GIDs: idMap(200)},
		{UIDs: idMap(100), GIDs: idMap(200), Recursive: true},
		nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, m := range guest.Spec.Mounts {
		if m.UIDMappings != nil || m.GIDMappings != nil || slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap") {
			t.Errorf("the guest gets %+v", m)
		}
	}
	if options := guest.Memory[0].Options; !slices.Contains(options, "uid=7") || !slices.Contains(options, "gid=2000") {
		t.Errorf("the memory volume has %q", options)
	}
	if len(guest.Dropped) != 1 || !strings.HasPrefix(guest.Dropped[0], "mounts[5].uidMappings") {
		t.Errorf("dropped %q", guest.Dropped)
	}
}

// A block device is no file: its node is made in the guest.
func TestAMountedBlockDeviceBecomesADevice(t *testing.T) {
	guest, err := transformMount(specs.Mount{Type: "bind", Destination: "/data/disk", Source: "/dev/sda", Options: []string{"bind", "ro"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(guest.Spec.Mounts) != 0 || len(guest.Binds) != 0 {
		t.Errorf("mounts %v, binds %v", guest.Spec.Mounts, guest.Binds)
	}
	devices := guest.Spec.Linux.Devices
	last := devices[len(devices)-1]
	if last.Path != "/data/disk" || last.Type != "b" || last.Major != 8 || last.Minor != 0 || last.FileMode == nil || last.UID == nil {
		t.Errorf("device %+v", last)
	}
	if diff := cmp.Diff([]BlockDevice{{Major: 8, ReadOnly: true}, {ReadOnly: true}}, guest.BlockDevices); diff != "" {
		t.Error(diff)
	}
}

// TestRealHost looks at files that every Linux has.
func TestRealHost(t *testing.T) {
	var h realHost
	info, err := h.Stat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if own, err := (&translation{}).guestDeviceNode(&specs.Mount{}, "/dev/null", info); err != nil || own != "/dev/null" {
		t.Errorf("/dev/null is %q, %v", own, err)
	}
	if fs, err := h.Tmpfs("/proc"); err != nil || fs != nil {
		t.Errorf("/proc is a tmpfs: %+v, %v", fs, err)
	}
	if _, err := h.Tmpfs("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Tmpfs of nothing: %v", err)
	}
	dir := t.TempDir()
	if empty, err := isEmpty(dir); err != nil || !empty {
		t.Errorf("a new directory is empty: %t, %v", empty, err)
	}
	if empty, err := isEmpty(os.DevNull); err != nil || empty {
		t.Errorf("a file is empty: %t, %v", empty, err)
	}
	if below, err := h.WritableBelow(dir); err != nil || below {
		t.Errorf("something is mounted below a new directory: %t, %v", below, err)
	}
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	resolved, err := h.Resolve(dir)
	if err != nil {
		t.Fatal(err)
	}
	if empty, err := isEmpty(dir); err != nil || empty {
		t.Errorf("a directory with a link is empty: %t, %v", empty, err)
	}
	if got, err := h.Resolve(dir + "/link"); err != nil || got != resolved {
		t.Errorf("Resolve = %s, %v", got, err)
	}
}
