//go:build vm

package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestVolumes shares one machine: what one side of a bind mount writes, the
// other reads; mounts below it; a file that is larger than any disk here.
func TestVolumes(t *testing.T) {
	h := harness.New(t)
	outside := h.File("volume")
	for _, name := range []string{"rw", "nested/inner", "followed"} {
		if err := os.MkdirAll(filepath.Join(outside, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inner := memory(h, "inner", "size=1m")
	write(t, filepath.Join(inner, "file"), "in the inner one\n")
	followed := filepath.Join(outside, "followed")
	if err := unix.Mount(followed, followed, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(followed, unix.MNT_DETACH)
	if err := unix.Mount("", followed, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(followed, "later"), 0o755); err != nil {
		t.Fatal(err)
	}
	const terabyte = 1 << 40
	sparse := filepath.Join(outside, "rw/sparse")
	file, err := os.Create(sparse)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("the end"), terabyte-7); err != nil {
		t.Fatal(err)
	}
	file.Close()
	write(t, filepath.Join(outside, "rw/shared"), "first\n")

	spec := bundle.Spec("/bin/sleep", "100000")
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/rw", Type: "bind", Source: filepath.Join(outside, "rw"), Options: []string{"rbind"}},
		specs.Mount{Destination: "/nested", Type: "bind", Source: filepath.Join(outside, "nested"), Options: []string{"rbind"}},
		specs.Mount{Destination: "/nested/inner", Type: "bind", Source: inner, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/followed", Type: "bind", Source: followed, Options: []string{"rbind", "rslave"}})
	d := detach(h, spec)
	inside := func(script string) string {
		t.Helper()
		result := h.Run("exec", d.id, "/bin/sh", "-c", script)
		if result.Code != 0 {
			t.Errorf("%s: exit code %d, %q", script, result.Code, result.Stderr)
		}
		return result.Stdout
	}

	t.Run("writes of the host", func(t *testing.T) {
		if got := inside("cat /rw/shared"); got != "first\n" {
			t.Errorf("the container reads %q", got)
		}
		write(t, filepath.Join(outside, "rw/shared"), "second, longer\n")
		write(t, filepath.Join(outside, "rw/new"), "new\n")
		// Whoever opens it anew sees it soon.
		got := inside("until grep -q second /rw/shared && cat /rw/new; do sleep 0.1; done; cat /rw/shared")
		if got != "new\nsecond, longer\n" {
			t.Errorf("the container reads %q", got)
		}
	})
	t.Run("writes of the container", func(t *testing.T) {
		inside("echo from inside > /rw/made; mv /rw/new /rw/renamed; rm /rw/shared; ln -s made /rw/link")
		if data, err := os.ReadFile(filepath.Join(outside, "rw/link")); err != nil || string(data) != "from inside\n" {
			t.Errorf("the host reads %q, %v", data, err)
		}
		for name, there := range map[string]bool{"renamed": true, "new": false, "shared": false} {
			if _, err := os.Stat(filepath.Join(outside, "rw", name)); (err == nil) != there {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("nested", func(t *testing.T) {
		if got := inside("cat /nested/inner/file; echo x 2>/dev/null > /nested/inner/x || echo refused"); got != "in the inner one\nrefused\n" {
			t.Errorf("output %q", got)
		}
	})
	t.Run("a mount that the host makes later", func(t *testing.T) {
		at := filepath.Join(followed, "later")
		if err := unix.Mount("later", at, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(at, "file"), "later\n")
		if got := inside("until cat /followed/later/file 2>/dev/null; do sleep 0.1; done"); got != "later\n" {
			t.Errorf("output %q", got)
		}
		// The file server keeps what the guest remembers, so not without force.
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		inside("while cat /followed/later/file 2>/dev/null; do sleep 0.1; done >/dev/null")
	})
	t.Run("a terabyte", func(t *testing.T) {
		if got := inside("stat -c %s /rw/sparse; tail -c 7 /rw/sparse; dd if=/rw/sparse bs=1M skip=500000 count=1 2>/dev/null | tr -d '\\0' | wc -c"); got != "1099511627776\nthe end0\n" {
			t.Errorf("output %q", got)
		}
		inside("printf beyond >> /rw/sparse")
		var stat unix.Stat_t
		if err := unix.Stat(sparse, &stat); err != nil || stat.Size != terabyte+6 || stat.Blocks > 1000 {
			t.Errorf("the file has %d bytes in %d blocks, %v", stat.Size, stat.Blocks, err)
		}
	})
	h.Must("delete", "--force", d.id)
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), "/followed/later") {
		t.Errorf("mounts: %s, %v", mounts, err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
