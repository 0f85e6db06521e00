//go:build vm

package rootfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/shim/rootfs"
)

// insideVariable tells the test binary that it runs in a mount namespace of its
// own.
const insideVariable = "KATA_ROOTFS_TEST_INSIDE"

// TestMain runs the tests as a shim runs: in a mount namespace that is a slave of
// the host's. The one outside looks whether something shows on the host, whose
// mounts are shared here.
func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	// What stands for the host, with mounts that others get.
	if os.Getenv("KATA_ROOTFS_TEST_HOST") == "" {
		os.Exit(run("KATA_ROOTFS_TEST_HOST=1", unix.CLONE_NEWNS))
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	code := run(insideVariable+"=1", unix.CLONE_NEWNS)
	after, err2 := os.ReadFile("/proc/self/mountinfo")
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(before, after) {
		fmt.Fprintf(os.Stderr, "FAIL: the host's mounts changed from\n%s\nto\n%s %v\n", before, after, err)
		code = 1
	}
	os.Exit(code)
}

func run(variable string, flags uintptr) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), variable)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return 1
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "tests in a mount namespace:", err)
		return 1
	}
	return 0
}

// bundle makes directories in a directory of an own file system, that of overlays'
// upper layers must not be an overlay.
type bundle struct {
	*testing.T

	dir, target string
}

func newBundle(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{T: t, dir: t.TempDir()}
	if err := unix.Mount("test", b.dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(b.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b.target = b.make("bundle/rootfs")
	return b
}

// make makes a directory with files, whose text is that given.
func (b *bundle) make(name string, files ...string) string {
	b.Helper()
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for _, file := range files {
		base, text, _ := strings.Cut(file, "=")
		if err := os.WriteFile(filepath.Join(dir, base), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func (b *bundle) mount(mounts ...*types.Mount) {
	b.Helper()
	before := count(b.T)
	if err := rootfs.Mount(mounts, b.target, nil); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for range 2 { // it may be undone twice
			if err := rootfs.Unmount(b.target); err != nil {
				b.Error(err)
			}
		}
		if after := count(b.T); after != before {
			b.Errorf("%d mounts have become %d", before, after)
		}
	})
}

func count(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

// want compares a file below the root file system.
func (b *bundle) want(name, text string) {
	b.Helper()
	data, err := os.ReadFile(filepath.Join(b.target, name))
	if err != nil || string(data) != text {
		b.Errorf("%s is %q, %v; want %q", name, data, err, text)
	}
}

// wantWrite tries to write.
func (b *bundle) wantWrite(want error) {
	b.Helper()
	err := os.WriteFile(filepath.Join(b.target, "new"), nil, 0o600)
	if !errors.Is(err, want) {
		b.Errorf("write: %v, want %v", err, want)
	}
}

func overlay(options ...string) *types.Mount {
	return &types.Mount{Type: "overlay", Source: "overlay", Options: options}
}

func TestOverlay(t *testing.T) {
	b := newBundle(t)
	lower := b.make("lower", "a=lower", "b=lower")
	b.mount(overlay("workdir="+b.make("work"), "upperdir="+b.make("upper", "b=upper"), "lowerdir="+lower, "index=off"))
	b.want("a", "lower")
	b.want("b", "upper")
	b.wantWrite(nil)
	if _, err := os.Stat(filepath.Join(b.dir, "upper/new")); err != nil {
		t.Error(err)
	}
}

// An image of many layers needs more than the page that mount(2) takes. A name has
// the characters that separate options.
func TestOverlayOfManyLayers(t *testing.T) {
	b := newBundle(t)
	long := strings.Repeat("long-directory-name/", 10)
	const layers = 60
	var lower []string
	for i := range layers {
		dir := b.make(fmt.Sprintf("%s%d,:", long, i), fmt.Sprintf("%d=text %d", i, i), fmt.Sprintf("all=%d", i))
		lower = append(lower, strings.NewReplacer(",", `\,`, ":", `\:`).Replace(dir))
	}
	b.mount(overlay("workdir="+b.make(long+"work"), "upperdir="+b.make(long+"upper"), "lowerdir="+strings.Join(lower, ":")))
	for i := range layers {
		b.want(fmt.Sprint(i), fmt.Sprintf("text %d", i))
	}
	b.want("all", "0") // the first is on top
	b.wantWrite(nil)
}

func TestOverlayThatIsReadOnly(t *testing.T) {
	b := newBundle(t)
	b.mount(overlay("lowerdir="+b.make("one", "a=one")+":"+b.make("two", "a=two", "b=two"), "ro"))
	b.want("a", "one")
	b.want("b", "two")
	b.wantWrite(unix.EROFS)
}

func TestBind(t *testing.T) {
	for _, test := range []struct {
		options []string
		want    error
	}{
		{[]string{"rbind", "rw"}, nil},
		{[]string{"rbind", "ro"}, unix.EROFS},
		{[]string{"rw", "rbind", "nosuid", "noexec", "nodev", "noatime"}, nil},
	} {
		b := newBundle(t)
		b.mount(&types.Mount{Type: "bind", Source: b.make("source", "a=text"), Options: test.options})
		b.want("a", "text")
		b.wantWrite(test.want)
		var stat unix.Statfs_t
		if err := unix.Statfs(b.target, &stat); err != nil {
			t.Fatal(err)
		}
		if has := stat.Flags&unix.ST_NOEXEC != 0; has != (len(test.options) > 2) {
			t.Errorf("%q: noexec is %v", test.options, has)
		}
	}
}

func TestMountInAMount(t *testing.T) {
	b := newBundle(t)
	root := b.make("root", "a=root")
	b.make("root/below")
	if err := os.Symlink("/below", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	b.mount(
		&types.Mount{Type: "bind", Source: root, Options: []string{"rbind"}},
		&types.Mount{Type: "bind", Source: b.make("other", "b=other"), Target: "link", Options: []string{"ro", "bind"}},
	)
	b.want("a", "root")
	b.want("below/b", "other")
}

func TestNothing(t *testing.T) {
	b := newBundle(t)
	b.make("bundle/rootfs", "a=own")
	b.mount()
	b.want("a", "own")
	if err := rootfs.Unmount(filepath.Join(b.dir, "absent")); err != nil {
		t.Error(err)
	}
}

func TestImageFile(t *testing.T) {
	b := newBundle(t)
	image := filepath.Join(b.dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, output)
	}
	t.Cleanup(func() { // runs after the unmount, with which the device goes, on some kernels a little later
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for range 1000 {
			output, err := exec.Command("losetup", "-j", image).CombinedOutput()
			if err == nil && len(output) == 0 {
				return
			}
			<-ticker.C
		}
		t.Error("a loop device is left")
	})
	mount := &types.Mount{Type: "ext4", Source: image, Options: []string{"loop"}}
	b.mount(mount)
	b.wantWrite(nil)
	if err := rootfs.Unmount(b.target); err != nil {
		t.Fatal(err)
	}
	mount.Options = append(mount.Options, "ro")
	if err := rootfs.Mount([]*types.Mount{mount}, b.target, nil); err != nil {
		t.Fatal(err)
	}
	b.want("new", "")
	b.wantWrite(unix.EROFS)
}

// With user namespaces, containerd asks for layers whose owners are moved.
func TestIDMapping(t *testing.T) {
	mapping := []string{"uidmap=0:100000:1000,1000:200000:1000", "gidmap=0:300000:2000"}
	b := newBundle(t)
	source := b.make("source", "a=text")
	if err := os.Chown(filepath.Join(source, "a"), 1000, 7); err != nil {
		t.Fatal(err)
	}
	upper := b.make("upper", "b=upper")
	for _, mount := range []*types.Mount{
		{Type: "bind", Source: source, Options: append([]string{"rbind"}, mapping...)},
		overlay(append([]string{"lowerdir=" + source + ":" + b.make("second"), "workdir=" + b.make("work"), "upperdir=" + upper}, mapping...)...),
	} {
		t.Run(mount.GetType(), func(t *testing.T) {
			b := &bundle{T: t, dir: b.dir, target: b.target}
			b.mount(mount)
			var stat unix.Stat_t
			if err := unix.Stat(filepath.Join(b.target, "a"), &stat); err != nil || stat.Uid != 200000 || stat.Gid != 300007 {
				t.Errorf("owner %d:%d, %v", stat.Uid, stat.Gid, err)
			}
			b.want("a", "text")
		})
	}
}

// A list that fails leaves nothing.
func TestRefused(t *testing.T) {
	b := newBundle(t)
	source := b.make("source")
	good := &types.Mount{Type: "bind", Source: source, Options: []string{"rbind"}}
	for _, test := range []struct {
		mount *types.Mount
		want  string
	}{
		{&types.Mount{Source: source}, "it has no type"},
		{&types.Mount{Type: "nosuchfs", Source: "x"}, "no file system of this type"},
		{&types.Mount{Type: "fuse3.fuse-overlayfs", Source: "overlay"}, "set snapshotter to overlayfs"},
		{&types.Mount{Type: "format/overlay", Source: "overlay"}, "mount manager"},
		{&types.Mount{Type: "bind", Source: source, Options: []string{"X-containerd.mkdir.path=/x"}}, "mount manager"},
		{&types.Mount{Type: "bind", Source: source, Options: []string{"rbind", "size=1"}}, "a bind mount has no options size=1"},
		{&types.Mount{Type: "bind", Source: source, Options: []string{"loop"}}, "no option loop"},
		{&types.Mount{Type: "bind", Source: filepath.Join(b.dir, "gone")}, "gone: no such file"},
		{&types.Mount{Type: "bind", Source: source, Target: "../absent"}, "open ../absent in the container"},
		{&types.Mount{Type: "bind", Source: source, Options: []string{"uidmap=0:1:1"}}, "one is missing"},
		{&types.Mount{Type: "bind", Source: source, Options: []string{"uidmap=0:1", "gidmap=0:1:1"}}, "not CONTAINER:HOST:SIZE"},
		{overlay("lowerdir="+source, "remount"), "nothing yet to mount again"},
		{overlay("lowerdir="+source+":"+source+"x", "nosuchoption"), "nosuchoption"},
		{overlay("lowerdir=" + source + ":" + filepath.Join(b.dir, "gone")), "no such file"},
		{overlay("lowerdir=" + source + "::" + source + strings.Repeat("/.", 3000)), "no simple list"},
		{overlay("lowerdir="+source, "x="+strings.Repeat("x", 5000)), "more than the kernel takes"},
		{&types.Mount{Type: "ext4", Source: filepath.Join(b.dir, "gone"), Options: []string{"loop"}}, "gone: no such file"},
	} {
		before := count(t)
		err := rootfs.Mount([]*types.Mount{good, test.mount}, b.target, nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v; want %q", test.mount, err, test.want)
		}
		if after := count(t); after != before {
			t.Errorf("%v: %d mounts have become %d", test.mount, before, after)
		}
	}
	if err := rootfs.Mount([]*types.Mount{{Type: "bind", Source: source, Target: "x"}}, b.target, nil); err == nil {
		t.Error("mounted in nothing")
	}
}
