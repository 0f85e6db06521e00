package qemu

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/jail"
)

// What the jail shows is what QEMU opens by name.
func TestJailSpec(t *testing.T) {
	dir := t.TempDir()
	kernel, initrd := filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd")
	for _, name := range []string{kernel, initrd} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A copy of some program, of which all that is asked is said.
	program := filepath.Join(dir, "qemu")
	if err := os.WriteFile(program, []byte("ELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := jail.Remember(dir, program, nil, func() ([]string, error) { return []string{program, "/lib/a"}, nil }); err != nil {
		t.Fatal(err)
	}
	o := Options{Kernel: kernel, Initrd: initrd, Accelerator: accel.TCG, Jail: &jail.Options{Dir: dir, User: 70000}}
	spec, err := JailSpec(t.Context(), program, &o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{program, "/lib/a", kernel, initrd}; !slices.Equal(spec.Root.Files, want) {
		t.Errorf("files %q, want %q", spec.Root.Files, want)
	}
	if spec.User != 70000 || len(spec.Capabilities) > 0 || spec.SystemCalls == nil || spec.Namespaces != jail.Empty ||
		len(spec.Root.Shares) > 0 || !slices.Equal(spec.Root.Devices, []string{"/dev/null", "/dev/urandom"}) {
		t.Errorf("%+v", spec)
	}
	o.Accelerator = accel.KVM
	if spec, err = JailSpec(t.Context(), program, &o); err != nil || !slices.Contains(spec.Root.Devices, "/dev/kvm") {
		t.Errorf("with KVM: %+v, %v", spec.Root, err)
	}
	if err := os.Chmod(initrd, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := JailSpec(t.Context(), program, &o); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("an initrd of root's alone: %v", err)
	}
	o.Jail.User = 0
	if _, err := JailSpec(t.Context(), program, &o); err != nil {
		t.Errorf("likewise, as root: %v", err)
	}
}

// QEMU serves 9p with the host's file tree, or confined, and never both.
func TestJailRefuses9p(t *testing.T) {
	o := Options{
		Name: "x", Accelerator: accel.TCG, Kernel: "/k", Size: hypervisor.Size{VCPUs: 1, MemoryMiB: 64}, Jail: &jail.Options{},
		Devices: []hypervisor.Device{&hypervisor.Share{ID: "share0", Tag: "x", Directory: "/tmp"}},
	}
	if err := o.normalize(); !errors.Is(err, errNinePJail) {
		t.Errorf("got %v", err)
	}
}

// A module that is installed later, in a directory of whatever age, is seen.
func TestModulesInstalledLater(t *testing.T) {
	prefix, dir := t.TempDir(), filepath.Join(t.TempDir(), "jail")
	program, module := filepath.Join(prefix, "bin/qemu"), filepath.Join(prefix, "lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so")
	if err := os.Mkdir(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	find := func(want ...string) {
		t.Helper()
		found, err := jail.Remember(dir, program, func() ([]string, error) { return modulePlaces(program) },
			func() ([]string, error) { return acceleratorModules(program) })
		if err != nil || !slices.Equal(found, want) {
			t.Errorf("found %q, %v, want %q", found, err, want)
		}
	}
	for i := range 4 {
		// So many of its directories are there at first.
		there, first := module, ""
		for range 4 - i {
			there, first = filepath.Dir(there), there
		}
		if err := os.MkdirAll(there, 0o755); err != nil {
			t.Fatal(err)
		}
		age(t, there)
		find()
		if err := errors.Join(os.MkdirAll(filepath.Dir(module), 0o755), os.WriteFile(module, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		find(module)
		age(t, there)
		find(module)
		if err := os.RemoveAll(first); err != nil {
			t.Fatal(err)
		}
		find()
	}
}

// age makes a directory an old one, which two changes within a tick of the clock do not.
func age(t *testing.T, dir string) {
	t.Helper()
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, before, before); err != nil {
		t.Fatal(err)
	}
}
