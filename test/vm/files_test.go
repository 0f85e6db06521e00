//go:build vm

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// A virtiofsd of the host's serves pods as before, where the configuration asks for it.
func TestVirtiofsd(t *testing.T) {
	h := harness.New(t)
	configure(h, `hypervisor.virtio_fs_daemon = ""`)
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(volume, "host"), "host's")
	spec := bundle.Spec("/bin/sleep", "100000")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}})
	d := detach(h, spec)
	process(h, "/virtiofsd ")
	if got := h.Must("exec", d.id, "/bin/sh", "-c", "cat /volume/host; echo guest > /volume/guest; echo root > /file; cat /file"); got != "host'sroot\n" {
		t.Errorf("the container reads %q", got)
	}
	for path, want := range map[string]string{filepath.Join(volume, "guest"): "guest\n", filepath.Join(d.bundle, "rootfs", "file"): "root\n"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s has %q on the host, %v", path, got, err)
		}
	}
	h.Must("delete", "--force", d.id)
	h.Reap(d.pid)
}

// TestFileServer: with the file server of our own, a volume behaves as under runc
// where the C virtiofsd's does not. One machine has all of it.
func TestFileServer(t *testing.T) {
	h := harness.New(t)
	notify := os.Getenv(manyVariable) != ""
	configure(h, `hypervisor.virtio_fs_daemon = "kata-fs"`, fmt.Sprintf("hypervisor.virtio_fs_notify = %t", notify))
	volume := h.File("volume")
	for name, mode := range map[string]os.FileMode{"group": 0o2775, "shared": 0o755, "layers": 0o755, "watched": 0o755} {
		dir := filepath.Join(volume, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		// A mode of os has its setgid bit elsewhere.
		if err := unix.Chmod(dir, uint32(mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(volume, "group"), 0, 2000); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(filepath.Join(volume, "group"), 0o2775); err != nil {
		t.Fatal(err)
	}
	spec := bundle.Spec("/bin/sleep", "100000")
	all := &spec.Process.Capabilities
	for _, set := range []*[]string{&(*all).Bounding, &(*all).Effective, &(*all).Permitted} {
		*set = append((*set)[:len(*set):len(*set)], "CAP_SYS_ADMIN")
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}})
	single := h.File("single")
	write(t, single, "first")
	for destination, source := range map[string]string{"/again": filepath.Join(volume, "watched"), "/single": single} {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind"}})
	}
	dir := h.Bundle(spec)
	if err := program.Build(t.Context(), filepath.Join(dir, "rootfs", "bin", "filer"), "kata-runtime/test/vm/internal/filer"); err != nil {
		t.Fatal(err)
	}
	d := detachBundle(h, dir)
	run := func(t *testing.T, want int, flags []string, script string) string {
		t.Helper()
		result := h.Run(append(append([]string{"exec"}, flags...), d.id, "/bin/sh", "-c", script)...)
		if result.Code != want {
			t.Errorf("%s: exit code %d, want %d: %q", script, result.Code, want, result.Stdout+result.Stderr)
		}
		return result.Stdout
	}

	t.Run("a directory of a supplementary group", func(t *testing.T) {
		run(t, 0, []string{"--user", "1000:1000", "--additional-gids", "2000"},
			"cd /volume/group && touch file && mkdir dir && ln -s file symlink && mkfifo fifo && ln file link && mv file renamed")
		for _, name := range []string{"renamed", "dir", "symlink", "fifo", "link"} {
			var stat unix.Stat_t
			if err := unix.Lstat(filepath.Join(volume, "group", name), &stat); err != nil || stat.Uid != 1000 || stat.Gid != 2000 {
				t.Errorf("%s belongs to %d:%d, %v; want 1000:2000", name, stat.Uid, stat.Gid, err)
			} else if name == "dir" && stat.Mode&unix.S_ISGID == 0 {
				t.Error("a directory does not inherit the setgid bit")
			}
		}
		run(t, 1, []string{"--user", "1000:1000"}, "touch /volume/group/other")
	})
	t.Run("locks of the host", func(t *testing.T) {
		path := filepath.Join(volume, "shared", "lock")
		write(t, path, "")
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for name, lock := range map[string]func(how int) error{
			"flock": func(how int) error { return unix.Flock(int(file.Fd()), how) },
			"posix": func(how int) error {
				kind := map[int]int16{unix.LOCK_EX: unix.F_WRLCK, unix.LOCK_UN: unix.F_UNLCK}[how]
				return unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind})
			},
		} {
			if err := lock(unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			run(t, 1, nil, "filer "+name+" /volume/shared/lock")
			if err := lock(unix.LOCK_UN); err != nil {
				t.Fatal(err)
			}
			run(t, 0, nil, "filer "+name+" /volume/shared/lock")
			// Its process has ended, and so has its lock.
			if err := lock(unix.LOCK_EX); err != nil {
				t.Errorf("%s: the host does not get a lock that nobody has: %v", name, err)
			}
			if err := lock(unix.LOCK_UN); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("changes of the host", func(t *testing.T) {
		in := func(name string) string { return filepath.Join(volume, "shared", name) }
		for round := range 5 {
			write(t, in("rewritten"), strings.Repeat("a", 10+round))
			write(t, in("deleted"), "x")
			write(t, in("replaced"), "old")
			run(t, 0, nil, "cd /volume/shared; cat rewritten deleted replaced; ls -l")
			text := strings.Repeat("b", 100*round+1)
			write(t, in("rewritten"), text)
			write(t, in("next"), fmt.Sprint("new", round))
			if err := os.Remove(in("deleted")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(in("next"), in("replaced")); err != nil {
				t.Fatal(err)
			}
			got := run(t, 0, nil, "cd /volume/shared; cat rewritten; echo; cat replaced; echo; stat -c %s rewritten; test ! -e deleted && rm replaced")
			if want := fmt.Sprintf("%s\nnew%d\n%d\n", text, round, len(text)); got != want {
				t.Errorf("round %d: the container sees %q, want %q", round, got, want)
			}
		}
	})
	if notify {
		t.Run("inotify", func(t *testing.T) { testInotify(t, h, d, filepath.Join(volume, "watched"), single) })
	}
	t.Run("trusted attributes and overlayfs", func(t *testing.T) {
		run(t, 0, nil, "cd /volume/layers && mkdir lower upper work merged && echo 1 > lower/kept && echo 2 > lower/gone && "+
			"filer set lower/kept trusted.kata value && mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged && "+
			"rm merged/gone && echo 3 >> merged/kept && mkdir merged/new && test ! -e merged/gone && cat merged/kept && umount merged")
		if got := run(t, 0, nil, "filer get /volume/layers/lower/kept trusted.kata"); got != "value\n" {
			t.Errorf("the attribute is %q", got)
		}
		// What a guest writes is nothing that the host's overlayfs would trust.
		path := filepath.Join(volume, "layers", "lower", "kept")
		if n, err := unix.Getxattr(path, "trusted.kata", nil); err == nil {
			t.Errorf("the host has the attribute, of %d bytes", n)
		}
	})
	// Who waits for a lock dies with the container, though somebody keeps the lock.
	file, err := os.Open(filepath.Join(volume, "shared", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	run(t, 0, nil, "filer wait /volume/shared/lock < /dev/null > /dev/null 2>&1 & "+
		`until cat /proc/$!/task/*/wchan | grep -q -e fuse -e request_wait; do sleep 0.1; done`)
	// What a program has written to its memory at the moment at which all ends is in its
	// files: the guest goes with nothing that it holds back.
	mapped := []string{filepath.Join(volume, "shared", "mapped"), filepath.Join(dir, "rootfs", "mapped")}
	for _, path := range mapped {
		write(t, path, strings.Repeat("-", 4<<20))
	}
	run(t, 0, nil, "filer map /volume/shared/mapped >/one 2>&1 </dev/null & filer map /mapped >/other 2>&1 </dev/null & "+
		"until grep -q mapped /one && grep -q mapped /other; do sleep 0.1; done")
	killed := time.Now()
	h.Must("kill", d.id, "KILL")
	h.Reap(d.pid)
	const before = 30 * time.Second // the machine is given up, which ends them as well
	if took := time.Since(killed); took > before {
		t.Errorf("the container takes %s to die of a process that waits for a lock", took)
	}
	h.Must("delete", d.id)
	for _, path := range mapped {
		if got, err := os.ReadFile(path); err != nil || strings.Count(string(got), "m") != 4<<20 {
			t.Errorf("%s: %d of %d bytes are what was written, %v", path, strings.Count(string(got), "m"), 4<<20, err)
		}
	}
}
