//go:build vm

package callers

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// subordinateIDs gives podman's automatic user namespaces a range of ids, in
// the test program's own mount namespace.
func subordinateIDs(p *caller) {
	p.t.Helper()
	file := p.h.File("subid")
	if err := os.WriteFile(file, []byte("containers:200000:1000000\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			p.t.Fatalf("mount %s: %v", path, err)
		}
		p.t.Cleanup(func() {
			if err := unix.Unmount(path, 0); err != nil {
				p.t.Errorf("unmount %s: %v", path, err)
			}
		})
	}
}

// remove removes a container or a pod. podman of that time leaves one with a user
// namespace half removed now and then, and removes the rest when it is asked again:
// conmon's clean-up, if it comes first, unmounts /dev/shm in a mount namespace of
// conmon's own, and podman takes that for done (findings/podman-userns-shm.sh).
func (c *caller) remove(kind, name string) {
	c.t.Helper()
	args := []string{kind, "rm", "--force", "--time", "0", name}
	result := c.run("", args...)
	if result.Code != 0 && strings.Contains(result.Stderr, "userdata/shm: device or resource busy") {
		c.t.Logf("once more: %s", result.Stderr)
		result = c.run("", args...)
		if strings.Contains(result.Stderr, "no such") {
			return
		}
	}
	if result.Code != 0 {
		c.t.Errorf("%s: exit code %d: %s", strings.Join(args, " "), result.Code, result.Stderr)
	}
}

// A container's root is nobody on the host, which has given it its files.
func TestPodmanUserNamespaces(t *testing.T) {
	p := newPodman(t)
	subordinateIDs(p)
	t.Cleanup(func() { p.cleanup("pod", "rm", "--all", "--force", "--time", "0") })
	const ids = "echo $(id -u) $(cat /proc/self/uid_map)"
	const wait = "trap 'exit 4' TERM; while :; do sleep 1000 & wait $!; done"
	volume := p.h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Run("mappings", func(t *testing.T) {
		p := p.in(t)
		p.want(0, "0 0 100000 65536\n0 700\n", "", p.container("run", "--rm", "--uidmap", "0:100000:65536",
			"--volume", volume+":/volume:U", image, "sh", "-c", ids+"; echo mine > /volume/mapped; chmod 700 /volume; stat -c '%u %a' /volume")...)
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(volume, "mapped"), &stat); err != nil || stat.Uid != 100000 {
			t.Errorf("the file on the volume belongs to %d, %v", stat.Uid, err)
		}
	})
	t.Run("automatic", func(t *testing.T) {
		p := p.in(t)
		p.must(p.container("run", "-d", "--userns", "auto:size=5000", "--name", "auto", "--volume", "named:/named",
			"--tmpfs", "/memory", "--device", "/dev/fuse", image, "sh", "-c", wait)...)
		first, ok := strings.CutPrefix(p.must("exec", "auto", "sh", "-c", ids), "0 0 ")
		first, size, _ := strings.Cut(first, " ")
		if n, err := strconv.Atoi(first); !ok || err != nil || n < 200000 || size != "5000" {
			t.Errorf("mapping to %q, size %q", first, size)
		}
		p.want(0, "0 0 0 0\n0\n", "", "exec", "auto", "sh", "-c",
			"echo a > /named/a; echo b > /memory/b; echo c > /c; echo $(stat -c %u /named/a /memory/b /c /etc/hosts); : < /dev/fuse; echo $?")
		p.want(0, "1000\n", "", "exec", "--user", "1000", "auto", "id", "-u")
		p.terminal("exec", "-it", "auto", "sh")
		source, target := p.h.File("source"), p.h.File("target")
		if err := os.WriteFile(source, []byte("copied\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.must("cp", source, "auto:/named/copy")
		p.want(0, "copied\n0\n", "", "exec", "auto", "sh", "-c", "cat /named/copy; stat -c %u /named/copy")
		p.must("cp", "auto:/c", target)
		p.remove("container", "auto")
	})
	t.Run("of a pod", func(t *testing.T) {
		p := p.in(t)
		parent := strings.TrimPrefix(p.env[len(p.env)-1], cgroupVariable+"=")
		p.must("pod", "create", "--name", "pod", "--userns", "auto", "--network", "none", "--cgroup-parent", parent,
			"--infra-image", image, "--infra-command", "/bin/sleep 1000000")
		p.must("run", "-d", "--pod", "pod", "--name", "member", image, "sh", "-c", wait)
		const look = "cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/user; " + ids + "; touch /dev/mqueue/x && rm /dev/mqueue/x"
		member := p.must("exec", "member", "sh", "-c", look)
		if other := p.must("run", "--rm", "--pod", "pod", image, "sh", "-c", look); other != member || !strings.Contains(member, "\n0 0 2") {
			t.Errorf("the second container says %q, the first %q", other, member)
		}
		p.remove("pod", "pod")
	})
	p.want(0, "", "", "ps", "--all", "--quiet")
}
