//go:build vm

package callers

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// task is a container in a pod of its own, by the shim's own protocol.
type task struct {
	taskapi.TTRPCTaskService

	h      *harness.Host
	id     string
	bundle string
	stdout string
}

// newTask starts a shim for a container that runs a shell script.
func newTask(h *harness.Host, script string) *task {
	h.T.Helper()
	c := &task{h: h, id: h.ID(), bundle: h.Bundle(bundle.Spec("/bin/sh", "-c", script))}
	c.stdout = h.File("stdout-" + c.id)
	command := exec.CommandContext(h.T.Context(), filepath.Join(harness.Repository(h.T), "bin", "containerd-shim-kata-v2"),
		"-namespace", "test", "-address", "/run/nobody.sock", "-id", c.id, "start")
	command.Dir = c.bundle
	command.Env = append(os.Environ(), "KATA_SHIM_ROOT="+h.File("shim"), "TMPDIR="+h.Temp)
	address, err := command.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			h.T.Logf("%s", exit.Stderr)
		}
		h.T.Fatalf("start the shim: %v", err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(string(address), "unix://"))
	if err != nil {
		h.T.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	c.TTRPCTaskService = taskapi.NewTTRPCTaskClient(client)
	h.T.Cleanup(func() {
		connected, err := c.Connect(c.bounded(), &taskapi.ConnectRequest{ID: c.id})
		if err != nil {
			h.T.Error(err)
		}
		_, _ = c.Kill(c.bounded(), &taskapi.KillRequest{ID: c.id, Signal: uint32(unix.SIGKILL), All: true}) // it may have ended
		_, _ = c.Wait(c.bounded(), &taskapi.WaitRequest{ID: c.id})
		_, _ = c.Delete(c.bounded(), &taskapi.DeleteRequest{ID: c.id})
		_, _ = c.Shutdown(c.bounded(), &taskapi.ShutdownRequest{ID: c.id})
		client.Close()
		h.Reap(int(connected.GetShimPid())) // start has ended: it is this process's
	})
	return c
}

// bounded is for one call, also at the test's end.
func (c *task) bounded() context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.h.T.Context()), harness.Patience)
	c.h.T.Cleanup(cancel)
	return ctx
}

// create makes the container with a root file system of these mounts.
func (c *task) create(mounts []*types.Mount) error {
	_, err := c.Create(c.bounded(), &taskapi.CreateTaskRequest{ID: c.id, Bundle: c.bundle, Rootfs: mounts, Stdout: "file://" + c.stdout})
	return err
}

func (c *task) start() {
	c.h.T.Helper()
	if _, err := c.Start(c.bounded(), &taskapi.StartRequest{ID: c.id}); err != nil {
		c.h.T.Fatal(err)
	}
}

// wait returns what the container has written, at its end.
func (c *task) wait() string {
	c.h.T.Helper()
	ended, err := c.Wait(c.bounded(), &taskapi.WaitRequest{ID: c.id})
	if err != nil || ended.GetExitStatus() != 0 {
		c.h.T.Errorf("it ended: %v, %v", ended, err)
	}
	text, err := os.ReadFile(c.stdout)
	if err != nil {
		c.h.T.Error(err)
	}
	return string(text)
}

// disks makes the layers of an image: a writable one, two of the image, of which one
// lies on two disks and the other is compressed.
type disks struct {
	h   *harness.Host
	dir string
}

func newDisks(t *testing.T, h *harness.Host) *disks {
	t.Helper()
	requirePrograms(t, "mkfs.ext4", "mkfs.erofs")
	t.Cleanup(func() { removeOwn(t, "/run/containerd") }) // the directory of sockets
	d := &disks{h, h.File("disks")}
	base, top := d.path("base"), d.path("top")
	if err := errors.Join(
		os.MkdirAll(top+"/etc", 0o755), bundle.Rootfs(base), os.WriteFile(base+"/below", []byte("below\n"), 0o600),
		os.WriteFile(base+"/both", []byte("below\n"), 0o600), os.WriteFile(top+"/both", []byte(strings.Repeat("top\n", 5000)), 0o600),
		unix.Mknod(top+"/etc/group", unix.S_IFCHR, 0), // a whiteout
	); err != nil {
		t.Fatal(err)
	}
	d.must("mkfs.erofs", "--quiet", "--chunksize=4096", "--blobdev="+d.path("blob"), d.path("base.erofs"), base)
	d.must("mkfs.erofs", "--quiet", "-zlz4", d.path("top.erofs"), top)
	return d
}

func (d *disks) path(name string) string { return filepath.Join(d.dir, name) }

func (d *disks) must(name string, args ...string) {
	d.h.T.Helper()
	if output, err := exec.CommandContext(d.h.T.Context(), name, args...).CombinedOutput(); err != nil {
		d.h.T.Fatalf("%s: %v: %s", name, err, output)
	}
}

// writable makes the disk of a writable layer, which begins as a directory says.
func (d *disks) writable(name string, args ...string) string {
	d.h.T.Helper()
	d.must("truncate", "-s", "16M", d.path(name))
	d.must("mkfs.ext4", append([]string{"-q", d.path(name)}, args...)...)
	return d.path(name)
}

// mounts are what containerd's erofs snapshotter gives for them.
func (d *disks) mounts(writable string) []*types.Mount {
	return []*types.Mount{
		{Type: "ext4", Source: writable, Options: []string{"rw", "loop"}},
		{Type: "erofs", Source: d.path("top.erofs"), Options: []string{"ro", "loop"}},
		{Type: "erofs", Source: d.path("base.erofs"), Options: []string{"ro", "loop", "device=" + d.path("blob")}},
		{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
			"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
			"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 2 }}",
		}},
	}
}

// TestShimDisks has the root file system on the disks of a snapshotter that keeps
// layers so, of which pods share those that nobody writes to.
func TestShimDisks(t *testing.T) {
	h := harness.New(t)
	d := newDisks(t, h)
	writable := d.writable("first.img")
	first := newTask(h, "sleep 100000")
	if err := first.create(d.mounts(writable)); err != nil {
		t.Fatal(err)
	}
	first.start()

	second := newTask(h, "cat /below; wc -c </both; ls /etc; echo own >/both; cat /both; ls /lost+found 2>&1; grep -c ' vd' /proc/partitions")
	if err := second.create(d.mounts(writable)); err == nil || !strings.Contains(err.Error(), "lock") { // QEMU's
		t.Errorf("a disk that another machine writes to: %v", err)
	}
	if err := second.create(d.mounts(d.writable("second.img"))); err != nil {
		t.Fatal(err)
	}
	second.start()
	if got, want := second.wait(), "below\n20000\npasswd\nown\nls: /lost+found: No such file or directory\n4\n"; got != want {
		t.Errorf("the container sees %q, want %q", got, want)
	}
}

// A writable layer that somebody has prepared does not lead a container out of it,
// into the guest.
func TestShimHostileDisk(t *testing.T) {
	h := harness.New(t)
	d := newDisks(t, h)
	hostile := d.path("hostile")
	if err := errors.Join(os.MkdirAll(hostile, 0o755), os.Symlink("/", hostile+"/upper")); err != nil {
		t.Fatal(err)
	}
	c := newTask(h, "true")
	err := c.create(d.mounts(d.writable("hostile.img", "-d", hostile)))
	if err == nil || !strings.Contains(err.Error(), "overlay") {
		t.Errorf("%v", err)
	}
	// A part of such a disk as the whole root.
	mounts := []*types.Mount{
		{Type: "ext4", Source: d.writable("root.img", "-d", hostile), Options: []string{"rw", "loop"}},
		{Type: "format/bind", Source: "{{ mount 0 }}/upper", Options: []string{"rw", "rbind"}},
	}
	if err := c.create(mounts); err == nil { // the root of the disk, in which no program is
		_, err = c.Start(c.bounded(), &taskapi.StartRequest{ID: c.id})
		if err == nil {
			t.Error("a program was found")
		}
	}
}
