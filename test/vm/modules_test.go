//go:build vm

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// modulesOnDemand is run as --privileged would be. Each line of its output says what
// became of one thing that takes a module.
const modulesOnDemand = `
try() { what=$1; shift; if "$@" 2>/tmp/error; then echo "$what: works"; else echo "$what: $(cat /tmp/error)"; fi; }
loaded() { if grep -q "^$1 " /proc/modules; then echo "$1: loaded"; else echo "$1: not loaded"; fi; }
try dummy ip link add d0 type dummy
ls /sys/class/net | grep -c dummy # the kernel's command line says: no others
try link ip link add link d0 name d0.5 type vlan id 5
try denied ip link add b type bridge
try tampered mount -t squashfs /dev/null /mnt
try unknown mount -t nosuch /dev/null /mnt
cat /proc/sys/kernel/modprobe >/volume/own.ko # what is in it does not matter
try own insmod /volume/own.ko
for m in 8021q garp bridge llc squashfs ip_tables ip6_tables; do loaded $m; done
echo "loops: $(cat /sys/module/loop/parameters/max_loop)"
echo "enforced: $(cat /sys/module/module/parameters/sig_enforce)"
dmesg | sed -n 's/.*kata-agent: //p'
`

// Debian's kernel has its drivers as modules and boots another way: the main paths once
// more with it, and what its containers cause to be loaded.
func TestDebiansKernel(t *testing.T) {
	h := harness.New(t)
	a := debianAssets(t)
	configure(h, fmt.Sprintf("hypervisor.qemu.kernel = %q", a.kernel), fmt.Sprintf("hypervisor.qemu.initrd = %q", a.initrd),
		fmt.Sprintf("hypervisor.modules = %q", tamperedModules(h, filepath.Join(filepath.Dir(a.kernel), "modules"))),
		`hypervisor.deny_modules = ["bridge"]`, `agent.kata.kernel_modules = ["loop max_loop=3", "tcp_cubic"]`)
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := bundle.Privileged(bundle.Spec("/bin/sh", "-c", "uname -r; cat > /volume/input; echo complaint >&2; mkdir /mnt;"+modulesOnDemand+"exit 3"))
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"bind"}})

	// It runs AppArmor, which has no profiles: the host's have no effect.
	spec.Process.ApparmorProfile = "docker-default"

	result := h.RunInput("some input", "run", "-b", h.Bundle(spec), h.ID())

	wantCode(t, result, 3)
	if !strings.Contains(result.Stdout, "-cloud-amd64") {
		t.Errorf("the guest's kernel is %q", result.Stdout)
	}
	if result.Stderr != "complaint\n" {
		t.Errorf("standard error %q", result.Stderr)
	}
	if data, err := os.ReadFile(filepath.Join(volume, "input")); err != nil || string(data) != "some input" {
		t.Errorf("the host reads %q, %v", data, err)
	}
	for _, want := range []string{
		"dummy: works\n0\n", "link: works\n", "8021q: loaded\n", "garp: loaded\n",
		"denied: ip: RTNETLINK answers: Operation not supported\n", "bridge: not loaded\n",
		"tampered: mount: mounting /dev/null on /mnt failed: No such device\n", "squashfs: not loaded\n",
		"unknown: mount: mounting /dev/null on /mnt failed: No such device\n",
		"own: insmod: can't insert '/volume/own.ko': Operation not permitted\n",
		"enforced: Y\n", "ip_tables: loaded\n", "ip6_tables: loaded\n", "loops: 3\n",
		`msg="kernel modules loaded" modules="[`, "request=rtnl-link-vlan\n",
		"request=rtnl-link-bridge error=\"module bridge: deny_modules names it\"\n",
		"request=fs-squashfs error=\"module squashfs: kernel/fs/squashfs/squashfs.ko: it is not what the image names: it has changed\"\n",
	} {
		if !strings.Contains(result.Stdout, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", result.Stdout)
	}
}

// tamperedModules returns a directory of modules with the index of another, one module
// and what that needs, and one that is not what it was.
func tamperedModules(h *harness.Host, from string) string {
	h.T.Helper()
	releases, err := os.ReadDir(from)
	if err != nil || len(releases) != 1 {
		h.T.Fatalf("%s holds %v, %v, want one release (make image)", from, releases, err)
	}
	release := releases[0].Name()
	to := h.File("modules")
	copyFile := func(name, more string) {
		content, err := os.ReadFile(filepath.Join(from, release, name))
		target := filepath.Join(to, release, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(target), 0o755)
		}
		if err == nil {
			err = os.WriteFile(target, append(content, more...), 0o644)
		}
		if err != nil {
			h.T.Fatal(err)
		}
	}
	for _, name := range []string{"modules.alias", "modules.dep", "modules.softdep", "modules.builtin", "modules.sha256"} {
		copyFile(name, "")
	}
	for _, name := range []string{
		"drivers/net/dummy.ko", "net/8021q/8021q.ko", "net/802/garp.ko", "net/802/mrp.ko", "net/802/stp.ko", "net/llc/llc.ko",
		"drivers/block/loop.ko", "net/netfilter/x_tables.ko", "net/ipv4/netfilter/ip_tables.ko", "net/ipv6/netfilter/ip6_tables.ko",
	} {
		copyFile("kernel/"+name, "")
	}
	copyFile("kernel/fs/squashfs/squashfs.ko", "x")
	return to
}
