//go:build vm

package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestMounts shares one machine: a pod whose containers have read-only root
// file systems without mount points, volumes with mounts below them, and memory
// that has content on the host.
func TestMounts(t *testing.T) {
	h := harness.New(t)
	volume := h.File("volume")
	for _, name := range []string{"inner", "later", "dir"} {
		if err := os.MkdirAll(filepath.Join(volume, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	memory(h, "volume/inner", "size=1m")
	plain := h.File("plain")
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	shm := memory(h, "pod/shm", "size=16m,mode=1777")
	cache := memory(h, "pod/kubernetes.io~empty-dir/cache", "size=8m,mode=0777")
	own := memory(h, "own", "size=1m")
	fill(t, cache)
	write(t, filepath.Join(shm, "segment"), "of the host\n")
	write(t, filepath.Join(own, "file"), "of the user\n")

	withMounts := func(spec *specs.Spec) *specs.Spec {
		spec.Root.Readonly = true
		spec.Process.Cwd = "/srv/work"
		bindMount(spec, shm, "/dev/shm")
		bindMount(spec, cache, "/cache")
		bind := func(source, destination string, options ...string) {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options})
		}
		bind(volume, "/ro", "rbind", "rprivate", "ro")
		bind(volume, "/rro", "rbind", "rprivate", "rro")
		bind(volume, "/rw", "rbind", "rprivate")
		bind(own, "/rw/made/inside", "rbind")
		bind(plain, "/plain", "rbind", "rprivate", "ro")
		bind("/etc/hostname", "/var/spool/name", "bind", "ro")
		return spec
	}
	// A root of the guest, who lifts what the guest has set.
	first := withMounts(sandbox(bundle.Privileged(bundle.Spec("/bin/sh", "-c", waitForTerm))))
	layers := memory(h, "layers", "size=1m") // which can be an upper layer, whatever the test's directory is on
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(layers, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(layers, "lower/below"), "below\n")
	first.Mounts = append(first.Mounts, specs.Mount{Destination: "/overlaid", Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + layers + "/lower", "upperdir=" + layers + "/upper", "workdir=" + layers + "/work", "private",
	}})
	first.Linux.Devices = append(first.Linux.Devices, specs.LinuxDevice{Path: "/opt/zero", Type: "c", Major: 1, Minor: 5})
	pod := detachBundle(h, bareBundle(h, first))
	second := withMounts(member(bundle.Spec("/bin/sh", "-c", waitForTerm), pod, podNamespaces()...))
	// As kubelet does for a container with a subPath.
	part := h.File("pod/volume-subpaths/cache/second/0")
	if err := errors.Join(os.Mkdir(filepath.Join(cache, "part/later"), 0o700), os.MkdirAll(part, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Join(cache, "part/later"), part, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(part, unix.MNT_DETACH)
	bindMount(second, part, "/part")
	second.Mounts = slices.DeleteFunc(second.Mounts, func(m specs.Mount) bool { // it finds its own /dev
		return m.Destination == "/dev" || strings.HasPrefix(m.Destination, "/dev/") && m.Destination != "/dev/shm"
	})
	dir := bareBundle(h, second)
	write(t, filepath.Join(dir, "rootfs/dev/image"), "of the image\n")
	other := detachBundle(h, dir)
	for _, c := range []detached{pod, other} {
		h.WaitText(c.output, "ready")
	}
	in := func(c detached, script string) string { return h.Must("exec", c.id, "/bin/sh", "-c", script) }

	t.Run("a read-only root", func(t *testing.T) {
		for _, c := range []detached{pod, other} {
			if got := in(c, "pwd; touch /x 2>&1; touch /var/x 2>&1; ls -d /x /var/x 2>/dev/null; cat /var/spool/name"); got !=
				"/srv/work\ntouch: /x: Read-only file system\ntouch: /var/x: Read-only file system\n"+hostname(t) {
				t.Errorf("a container with a read-only root: %q", got)
			}
		}
		got := in(pod, "mount -o remount,bind,rw / && grep -c ' / virtiofs rw' /proc/self/mounts; touch /x 2>&1; mkdir /var/x 2>&1; rm /bin/busybox 2>&1; true")
		if want := "1\ntouch: /x: Read-only file system\nmkdir: can't create directory '/var/x': Read-only file system\nrm: can't remove '/bin/busybox': Read-only file system\n"; got != want {
			t.Errorf("root of the guest wrote to a read-only root file system: %q", got)
		}
		for _, name := range []string{"proc", "sys", "dev", "srv/work", "cache", "ro", "var/spool/name"} {
			if _, err := os.Lstat(filepath.Join(pod.bundle, "rootfs", name)); err != nil {
				t.Errorf("a mount point: %v", err)
			}
		}
		if names, err := os.ReadDir(filepath.Join(pod.bundle, "rootfs/dev")); err != nil || len(names) > 0 {
			t.Errorf("mount points for the guest's own file systems: %v, %v", names, err)
		}
	})
	t.Run("an overlay", func(t *testing.T) {
		got := in(pod, "cat /overlaid/below; echo above > /overlaid/below; rm /overlaid/none 2>&1; cat /overlaid/below; mkdir /overlaid/dir")
		if want := "below\nrm: can't remove '/overlaid/none': No such file or directory\nabove\n"; got != want {
			t.Errorf("in the container: %q, want %q", got, want)
		}
		for name, want := range map[string]string{"lower/below": "below\n", "upper/below": "above\n"} {
			if data, err := os.ReadFile(filepath.Join(layers, name)); err != nil || string(data) != want {
				t.Errorf("%s on the host: %q, %v", name, data, err)
			}
		}
		if _, err := os.Stat(filepath.Join(layers, "upper/dir")); err != nil {
			t.Error(err)
		}
	})
	t.Run("devices in a read-only root", func(t *testing.T) {
		if got := in(pod, "head -c 3 /opt/zero | wc -c"); got != "3\n" {
			t.Errorf("a device outside of /dev: %q", got)
		}
		got := in(other, "cat /dev/image; echo gone > /dev/null; readlink /dev/fd; readlink /dev/ptmx; touch /dev/x 2>&1; true")
		if want := "of the image\n/proc/self/fd\npts/ptmx\ntouch: /dev/x: Read-only file system\n"; got != want {
			t.Errorf("a container without a mount at /dev: %q, want %q", got, want)
		}
		if names, err := os.ReadDir(filepath.Join(other.bundle, "rootfs/dev")); err != nil || len(names) != 1 {
			t.Errorf("/dev on the host has %v, %v", names, err)
		}
	})
	t.Run("a stand-in's mounts", func(t *testing.T) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pod.pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			options := strings.Split(strings.Fields(line)[5], ",")
			if !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") {
				t.Errorf("a mount of a stand-in is not nosuid and nodev: %s", line)
			}
		}
		if n := strings.Count(string(data), "\n"); n < 10 {
			t.Errorf("the stand-in has %d mounts:\n%s", n, data)
		}
	})
	t.Run("mounts below a read-only volume", func(t *testing.T) {
		for _, test := range []struct{ where, want string }{
			{"/ro/dir", "refused"},
			{"/ro/inner", "written"},
			{"/rro/dir", "refused"},
			{"/rro/inner", "refused"},
			{"/rw/dir", "written"},
			{"/rw/inner", "written"},
			{"/plain", "refused"},
			{"/rw/made/inside", "written"},
		} {
			script := fmt.Sprintf("{ echo x > %[1]s/new; } 2>/dev/null && echo written && rm %[1]s/new || echo refused", test.where)
			if got := in(other, script); got != test.want+"\n" {
				t.Errorf("%s is %q, want %q", test.where, got, test.want)
			}
		}
		// What is read-only as a whole says so.
		script := "for at in /rro /plain; do awk -v at=$at '$2 == at {split($4, o, \",\"); print at, o[1]}' /proc/self/mounts; done"
		if got := in(other, script); got != "/rro ro\n/plain ro\n" {
			t.Errorf("/proc/self/mounts has %q", got)
		}
	})
	t.Run("memory that has content", func(t *testing.T) {
		const describe = "cd /cache && stat -c '%n %a %u:%g %Y %F %h' dir dir/file linked link fifo . && cat dir/file && readlink link"
		want := `dir 2750 1000:2000 2000 directory 2
dir/file 600 7:8 1000 regular file 2
linked 600 7:8 1000 regular file 2
link 777 9:9 1000 symbolic link 1
fifo 620 0:0 1000 fifo 1
. 777 0:0 3000 directory 4
content
dir/file
`
		if got := in(pod, describe); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		in(pod, "echo written > /cache/new; echo shared > /dev/shm/new")
		if got := in(other, "cat /cache/new /dev/shm/new /dev/shm/segment; df -m /dev/shm /cache | awk '{print $2}' | tail -n 2"); got !=
			"written\nshared\nof the host\n16\n8\n" {
			t.Errorf("another container of the pod has %q", got)
		}
		in(other, "echo part > /part/file")
		if got := in(pod, "cat /cache/part/later/file; mknod /rw/dir/null c 1 3 && echo x > /rw/dir/null && echo a device"); got != "part\na device\n" {
			t.Errorf("the whole of a volume, and a volume's device: %q", got)
		}
		// The guest sees the host's no more, and the host not the guest's.
		for _, name := range []string{"cache/new", "shm/new"} {
			if _, err := os.Lstat(filepath.Join(filepath.Dir(shm), name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("on the host, %s: %v", name, err)
			}
		}
		if got := in(other, "cat /rw/made/inside/file"); got != "of the user\n" {
			t.Errorf("a user's tmpfs has %q", got)
		}
	})
	for _, c := range []detached{other, pod} {
		h.Must("delete", "--force", c.id)
	}
}

// bareBundle is a bundle whose root file system has no mount points.
func bareBundle(h *harness.Host, spec *specs.Spec) string {
	h.T.Helper()
	dir := h.Bundle(spec)
	for _, name := range []string{"dev", "proc", "sys", "tmp", "run", "home", "root"} {
		if err := os.Remove(filepath.Join(dir, "rootfs", name)); err != nil {
			h.T.Fatal(err)
		}
	}
	if !slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" }) {
		if err := os.Mkdir(filepath.Join(dir, "rootfs/dev"), 0o755); err != nil {
			h.T.Fatal(err)
		}
	}
	return dir
}

// fill makes some of what a file system can have.
func fill(t *testing.T, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.Mkdir(in("dir"), 0o700), os.Lchown(in("dir"), 1000, 2000), os.Chmod(in("dir"), os.ModeSetgid|0o750),
		os.WriteFile(in("dir/file"), []byte("content\n"), 0o600), os.Lchown(in("dir/file"), 7, 8),
		os.Link(in("dir/file"), in("linked")), os.Symlink("dir/file", in("link")), os.Lchown(in("link"), 9, 9),
		os.Mkdir(in("part"), 0o755), unix.Mkfifo(in("fifo"), 0), os.Chmod(in("fifo"), 0o620),
	); err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct {
		name string
		at   int64
	}{{"dir/file", 1000}, {"link", 1000}, {"fifo", 1000}, {"dir", 2000}, {".", 3000}} {
		times := []unix.Timespec{{Sec: file.at}, {Sec: file.at}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, in(file.name), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

func hostname(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
