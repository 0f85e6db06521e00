//go:build vm

package vm

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// mappedRoot is what root in a user namespace is outside of it.
const mappedRoot = 100000

// inUsers puts a container into a user namespace: a new one, or that of the
// pod.
func inUsers(spec *specs.Spec, first, size uint32, path string) *specs.Spec {
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: size}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	return spec
}

// own gives a tree to an owner, and keeps others out of its top.
func own(t *testing.T, dir string, owner int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, owner, owner)
	})
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ownedBundle makes a bundle whose root file system belongs to an owner.
func ownedBundle(h *harness.Host, spec *specs.Spec, owner int) string {
	h.T.Helper()
	b := h.Bundle(spec)
	own(h.T.(*testing.T), filepath.Join(b, "rootfs"), owner)
	return b
}

// TestUserNamespaces shares one pod, as containerd 2 makes one for
// hostUsers: false: a user namespace that is the sandbox's, joined by its path
// and with its mappings, with volumes that are id-mapped. One more container has
// a user namespace of its own, with one id.
func TestUserNamespaces(t *testing.T) {
	h := harness.New(t)
	plain, mapped, sockets := h.File("plain"), h.File("mapped"), h.File("sockets")
	for _, dir := range []string{plain, mapped, sockets} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "file"), "text")
	}
	own(t, plain, mappedRoot)
	own(t, mapped, 0)
	private := listenAt(t, filepath.Join(sockets, "private.sock"), "private", 0o600)
	own(t, sockets, mappedRoot)
	cache := memory(h, "pod/kubernetes.io~empty-dir/cache", "size=8m,mode=0700")
	disk := newLoop(h, "disk")

	pod := detachBundle(h, ownedBundle(h, inUsers(sandbox(bundle.Spec("/bin/sh", "-c", waitForTerm)), mappedRoot, 65536, ""), mappedRoot))
	spec := member(bundle.Spec("/bin/sh", "-c", waitForTerm), pod, podNamespaces()...)
	inUsers(spec, mappedRoot, 65536, "/proc/"+strconv.Itoa(pod.pid)+"/ns/user")
	ids := spec.Linux.UIDMappings
	bind := func(source, destination string, options ...string) *specs.Mount {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append(options, "rbind")})
		return &spec.Mounts[len(spec.Mounts)-1]
	}
	bind(plain, "/plain", "nocopy", "mode=0777", "size=1k")
	m := bind(mapped, "/mapped")
	m.UIDMappings, m.GIDMappings = ids, ids
	bind(mapped, "/ridmapped", "ridmap", "ro")
	m = bind(cache, "/cache")
	m.UIDMappings, m.GIDMappings = ids, ids
	bind(sockets, "/sockets")
	bind(filepath.Join(sockets, "private.sock"), "/run/private.sock")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/memory", Type: "tmpfs", Source: "tmpfs", Options: []string{"uid=7", "mode=0750", "size=1m"}})
	disk.give(spec, "/dev/disk", "rw")
	mode, uid := os.FileMode(0o620), uint32(7)
	spec.Linux.Devices = append(spec.Linux.Devices,
		specs.LinuxDevice{Path: "/dev/zeros", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid, GID: &uid},
		specs.LinuxDevice{Path: "/dev/fifo", Type: "p", FileMode: &mode, UID: &uid, GID: &uid})
	b := ownedBundle(h, spec, mappedRoot)
	if err := program.Build(t.Context(), filepath.Join(b, "rootfs", "bin", "socketclient"), "kata-runtime/test/vm/internal/socketclient"); err != nil {
		t.Fatal(err)
	}
	// Like the / of many images: the container's root makes mount points all the
	// same.
	if err := os.Chmod(filepath.Join(b, "rootfs"), 0o555); err != nil {
		t.Fatal(err)
	}
	joined := detachBundle(h, b)
	single := member(bundle.Spec("/bin/sh", "-c", waitForTerm), pod, specs.NetworkNamespace)
	for i := range single.Mounts { // a group that it does not have
		single.Mounts[i].Options = slices.DeleteFunc(single.Mounts[i].Options, func(o string) bool { return o == "gid=5" })
	}
	alone := detachBundle(h, ownedBundle(h, inUsers(single, 300000, 1, ""), 300000))
	all := []detached{pod, joined, alone}
	for _, c := range all {
		h.WaitText(c.output, "ready")
	}
	in := func(t *testing.T, c detached, script, want string) {
		t.Helper()
		if got := h.Must("exec", c.id, "/bin/sh", "-c", "{ "+script+"; } 2>&1; true"); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}

	t.Run("ids", func(t *testing.T) {
		const script = "echo $(id -u) $(cat /proc/self/uid_map); stat -c '%u:%g %a' /"
		in(t, pod, script, "0 0 100000 65536\n0:0 700\n")
		in(t, joined, script, "0 0 100000 65536\n0:0 555\n")
		in(t, alone, script, "0 0 300000 1\n0:0 700\n")
		namespace := func(c detached) string { return h.Must("exec", c.id, "readlink", "/proc/self/ns/user") }
		if namespace(pod) != namespace(joined) || namespace(pod) == namespace(alone) {
			t.Errorf("user namespaces %s, %s, %s", namespace(pod), namespace(joined), namespace(alone))
		}
		if out := h.Must("exec", "-u", "7:8", joined.id, "id"); !strings.HasPrefix(out, "uid=7 gid=8") {
			t.Errorf("a user: %q", out)
		}
	})
	t.Run("volumes", func(t *testing.T) {
		in(t, joined, "stat -c '%n %u:%g %a' /plain /plain/file /mapped /mapped/file /ridmapped/file /cache /memory",
			"/plain 0:0 700\n/plain/file 0:0 644\n/mapped 0:0 700\n/mapped/file 0:0 644\n/ridmapped/file 0:0 644\n/cache 0:0 700\n/memory 7:0 750\n")
		in(t, joined, "for d in plain mapped cache memory; do echo new > /$d/new && chown 5:6 /$d/new && stat -c '%u:%g' /$d/new; done; echo no > /ridmapped/no",
			"5:6\n5:6\n5:6\n5:6\n/bin/sh: can't create /ridmapped/no: Read-only file system\n")
		// Root may, whatever the mode, and a group's member as the group may.
		in(t, joined, "chmod 711 /plain; mkdir /new /plain/team && chown 0:9 /plain/team && chmod 770 /plain/team && stat -c '%u:%g' /new", "0:0\n")
		h.Must("exec", "-u", "7:8", "-g", "9", joined.id, "/bin/touch", "/plain/team/file")
		in(t, joined, "stat -c '%u:%g' /plain/team/file", "7:8\n")
		if result := h.Run("exec", "-u", "7:8", joined.id, "/bin/touch", "/plain/team/no"); result.Code != 1 || !strings.Contains(result.Stderr, "Permission denied") {
			t.Errorf("no member of the group: %+v", result)
		}
		for path, owner := range map[string]uint32{filepath.Join(plain, "new"): mappedRoot + 5, filepath.Join(mapped, "new"): 5} {
			var stat unix.Stat_t
			if err := unix.Stat(path, &stat); err != nil || stat.Uid != owner || stat.Gid != owner+1 {
				t.Errorf("%s belongs to %d:%d on the host, %v; want %d", path, stat.Uid, stat.Gid, err, owner)
			}
		}
	})
	t.Run("devices", func(t *testing.T) {
		in(t, joined, "stat -c '%n %u:%g %a %F' /dev/zeros /dev/fifo /dev/disk",
			"/dev/zeros 7:7 620 character special file\n/dev/fifo 7:7 620 fifo\n/dev/disk 5:6 640 block special file\n")
		in(t, joined, "head -c 4 /dev/zeros | wc -c; head -n 1 /dev/disk; echo x > /dev/null; head -c 1 /dev/urandom | wc -c; (echo through > /dev/fifo &); cat /dev/fifo",
			"4\ndisk\n1\nthrough\n")
	})
	t.Run("sockets", func(t *testing.T) {
		for _, socket := range []string{"/sockets/private.sock", "/run/private.sock"} {
			in(t, joined, "stat -c %u:%a "+socket, "0:600\n")
			if got := h.Must("exec", joined.id, "/bin/socketclient", "ask", socket); got != "private\n" {
				t.Errorf("%s answers %q", socket, got)
			}
		}
		private.mu.Lock()
		defer private.mu.Unlock()
		for _, peer := range private.peers {
			if peer.Uid != mappedRoot {
				t.Errorf("the server saw user %d", peer.Uid)
			}
		}
	})
	t.Run("network", func(t *testing.T) {
		in(t, joined, "mkdir /www && echo served > /www/index.html; httpd -p 127.0.0.1:80 -h /www && wget -q -O - http://127.0.0.1/; kill $(pidof httpd)", "served\n")
		in(t, joined, "/bin/socketclient ping 127.0.0.1", "reply\n")
	})
	t.Run("the rest of the machine", func(t *testing.T) {
		in(t, joined, "ls -d /run/kata /run/kata/shared 2>/dev/null; echo 1 > /proc/sys/kernel/sysrq || echo refused; ls /proc | grep -c '^[0-9]'",
			"/bin/sh: can't create /proc/sys/kernel/sysrq: Read-only file system\nrefused\n5\n")
	})
	t.Run("terminal", func(t *testing.T) {
		command := h.Command("exec", "-t", joined.id, "/bin/sh", "-c", "stat -c 'owner %u' $(tty)")
		terminal := h.StartOnTerminal(command, 24, 80)
		h.Expect(terminal, "owner 0\r\n")
		if err := command.Wait(); err != nil {
			t.Error(err)
		}
	})
	for _, c := range slices.Backward(all) {
		h.Must("delete", "--force", c.id)
		h.Reap(c.pid)
	}
}
