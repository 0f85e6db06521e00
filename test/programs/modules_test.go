//go:build vm && full

package programs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// onDemand is run as --privileged would be. Each line of its output says what became of
// one thing that takes a module.
const onDemand = `
try() { what=$1; shift; if "$@" 2>/tmp/error; then echo "$what: works"; else echo "$what: $(cat /tmp/error)"; fi; }
loaded() { if grep -q "^$1 " /proc/modules; then echo "$1: loaded"; else echo "$1: not loaded"; fi; }
mkdir /mnt
uname -r
ip link add d0 type dummy
for m in ifb squashfs xfs bonding; do loaded $m; done
try ifb ip link add i0 type ifb
loaded ifb
try denied ip link add b type bond
try tampered mount -t squashfs /dev/null /mnt
try unknown mount -t nosuch /dev/null /mnt
cat /proc/sys/kernel/modprobe >/tmp/own.ko
try own insmod /tmp/own.ko
for m in bonding squashfs; do loaded $m; done
dmesg | sed -n 's/.*kata-agent: //p'
`

// TestModularKernel boots the kernel that make kernel-modules builds, and has its modules
// loaded: those alone that are asked for, and that are what they were built as.
func TestModularKernel(t *testing.T) {
	h := harness.New(t)
	share := filepath.Join(harness.Repository(t), "share", "kata-containers")
	modules := h.File("modules")
	if err := os.CopyFS(modules, os.DirFS(resolve(t, filepath.Join(share, "modular", "modules")))); err != nil {
		t.Fatal(err)
	}
	tampered, err := filepath.Glob(filepath.Join(modules, "*", "kernel", "fs", "squashfs", "squashfs.ko"))
	if err != nil || len(tampered) != 1 {
		t.Fatalf("%q, %v, want one module", tampered, err)
	}
	content, err := os.ReadFile(tampered[0])
	if err == nil {
		err = os.WriteFile(tampered[0], append(content, 'x'), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	configure(h, "modular", modules, `deny_modules = ["bonding"]`)

	result := h.Run("run", "-b", h.Bundle(bundle.Privileged(bundle.Spec("/bin/sh", "-c", onDemand))), h.ID())

	if result.Code != 0 || result.Stderr != "" {
		t.Errorf("exit code %d, standard error %q", result.Code, result.Stderr)
	}
	for _, want := range []string{
		"-kata\n", "ifb: not loaded\nsquashfs: not loaded\nxfs: not loaded\nbonding: not loaded\nifb: works\nifb: loaded\n",
		"denied: ip: RTNETLINK answers: ", "bonding: not loaded\n",
		"tampered: mount: mounting /dev/null on /mnt failed: No such device\n", "squashfs: not loaded\n",
		"unknown: mount: mounting /dev/null on /mnt failed: No such device\n",
		"own: insmod: can't insert '/tmp/own.ko': Operation not permitted\n",
		`msg="kernel modules loaded" modules=[ifb] request=rtnl-link-ifb`,
		`request=rtnl-link-bond error="module bonding: deny_modules names it"`,
		`request=fs-squashfs error="module squashfs: kernel/fs/squashfs/squashfs.ko: it is not what the image names: it has changed"`,
	} {
		if !strings.Contains(result.Stdout, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", result.Stdout)
	}
}

// resolve follows a link to a directory.
func resolve(t *testing.T, path string) string {
	t.Helper()
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatalf("%v (make kernel-modules makes it)", err)
	}
	return resolved
}
