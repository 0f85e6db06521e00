package kmod_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/rootfs-builder/kmod"
)

func TestWriteIndex(t *testing.T) {
	dir := fakeTree(t, "", map[string]string{
		"kernel/net/a.ko":     "b-c,d",
		"kernel/net/b-c.ko":   "d",
		"kernel/net/d.ko":     "",
		"kernel/fs/vfat.ko":   "",
		"kernel/fs/squash.ko": "",
	})
	for name, fields := range map[string]string{
		"kernel/fs/vfat.ko":   "alias=fs-vfat\x00alias=fs-fat\x00",
		"kernel/fs/squash.ko": "softdep=pre: d crypto-x post: a\x00softdep=vfat\x00",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), fakeModuleWith(t, "", fields), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	if err := kmod.WriteIndex(dir); err != nil {
		t.Fatal(err)
	}
	first, err := kmod.IndexDigest(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"modules.dep": `kernel/fs/squash.ko:
kernel/fs/vfat.ko:
kernel/net/a.ko: kernel/net/b-c.ko kernel/net/d.ko
kernel/net/b-c.ko: kernel/net/d.ko
kernel/net/d.ko:
`,
		"modules.alias":   "alias fs-vfat vfat\nalias fs-fat vfat\n",
		"modules.softdep": "softdep squash pre: d crypto-x\n",
	} {
		if diff := cmp.Diff(want, read(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", kmod.DigestFile)
	check.Dir = dir
	if output, err := check.CombinedOutput(); err != nil || strings.Count(string(output), ": OK") != 9 {
		t.Errorf("sha256sum: %v\n%s", err, output)
	}
	if err := kmod.WriteIndex(dir); err != nil { // again, beside its own files
		t.Fatal(err)
	}
	if again, err := kmod.IndexDigest(dir); err != nil || again != first {
		t.Errorf("the same modules have the digests %s and %s, %v", first, again, err)
	}
}
