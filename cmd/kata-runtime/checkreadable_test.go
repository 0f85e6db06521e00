package main

import (
	"os"
	"path/filepath"
	"testing"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/machine"
)

// check tells before the first pod does that its kernel or initrd is root's alone.
func TestCheckReadable(t *testing.T) {
	dir := t.TempDir()
	settings := config.Default()
	settings.Hypervisor.Kernel, settings.Hypervisor.Initrd = filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd")
	statuses := func() (kernel, initrd string) {
		t.Helper()
		findings := checkReadable(settings.Hypervisor, checkAssets(settings))
		if len(findings) != 2 {
			t.Fatalf("%+v", findings)
		}
		return findings[0].Status, findings[1].Status
	}
	if kernel, initrd := statuses(); kernel != machine.StatusMissing || initrd != machine.StatusMissing {
		t.Errorf("of none: %s, %s", kernel, initrd)
	}
	for name, mode := range map[string]os.FileMode{settings.Hypervisor.Kernel: 0o644, settings.Hypervisor.Initrd: 0o640} {
		if err := os.WriteFile(name, []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if kernel, initrd := statuses(); kernel != machine.StatusOK || initrd != machine.StatusMissing {
		t.Errorf("with an initrd of root's: %s, %s", kernel, initrd)
	}
	settings.Hypervisor.ConfineUsers = ""
	if kernel, initrd := statuses(); kernel != machine.StatusOK || initrd != machine.StatusOK {
		t.Errorf("likewise, of a VMM that is root: %s, %s", kernel, initrd)
	}
}
