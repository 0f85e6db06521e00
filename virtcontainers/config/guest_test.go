package config

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestForArchitecture(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		return // it is about hosts of amd64
	}
	dir := write(t, map[string]string{
		"checkout/bin/kata-runtime":                              "",
		"checkout/share/kata-containers/arm64/debian/vmlinuz":    "",
		"checkout/share/kata-containers/arm64/debian/initrd.img": "",
		"empty/bin/kata-runtime":                                 "",
	})
	executable, system := filepath.Join(dir, "checkout/bin/kata-runtime"), filepath.Join(dir, "system")
	host := Default()
	host.Hypervisor.Kernel, host.Hypervisor.Initrd, host.Hypervisor.Modules = "/k", "/i", "/m"
	for _, name := range []string{"", "amd64"} {
		if got, err := host.forArchitecture(executable, system, name); got != host || err != nil {
			t.Errorf("of %q: another configuration, %v", name, err)
		}
	}
	got, err := host.forArchitecture(executable, system, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	m := got.Hypervisor
	kernel := filepath.Join(dir, "checkout/share/kata-containers/arm64/debian/vmlinuz")
	if !m.Emulated() || m.Kernel != kernel || m.Initrd == "/i" || m.Modules != "" || m.QEMU.Path != "/usr/bin/qemu-system-aarch64" {
		t.Errorf("got %+v", m)
	}
	if host.Hypervisor.Kernel != "/k" || host.Guest.ARM64.Kernel != "" || host.Hypervisor.Emulated() {
		t.Errorf("the host's has changed: %+v", host)
	}
	if err := got.Hypervisor.CheckArchitecture("amd64", "a program"); !errors.Is(err, ErrArchitecture) || !strings.Contains(err.Error(), "a program") {
		t.Errorf("amd64 in a machine of arm64: %v", err)
	}
	if err := errors.Join(got.Hypervisor.CheckArchitecture("arm64", ""), got.Hypervisor.CheckArchitecture("", "")); err != nil {
		t.Error(err)
	}

	host.Guest.ARM64.Kernel, host.Guest.ARM64.Image, host.Guest.ARM64.Modules = "/ak", "/aimg", "/am"
	if got, err = host.forArchitecture(executable, system, "arm64"); err != nil {
		t.Fatal(err)
	}
	if m := got.Hypervisor; m.Kernel != "/ak" || m.Initrd != "" || m.Image != "/aimg" || m.Modules != "/am" {
		t.Errorf("got %+v", m)
	}

	// A configuration for one architecture has its files from the beginning.
	one := Default()
	one.Hypervisor.Architecture = "arm64"
	if err := one.resolveAssets(executable, system); err != nil || one.Hypervisor.Kernel != kernel {
		t.Errorf("%v: %+v", err, one.Hypervisor)
	}
	if _, err := one.forArchitecture(executable, system, "amd64"); !errors.Is(err, ErrArchitecture) || !strings.Contains(err.Error(), `"auto"`) {
		t.Errorf("amd64 where arm64 is configured: %v", err)
	}

	_, err = Default().forArchitecture(filepath.Join(dir, "empty/bin/kata-runtime"), system, "arm64")
	if !errors.Is(err, ErrNoAssets) || !strings.Contains(err.Error(), "make arm64") || !strings.Contains(err.Error(), "[guest.arm64]") {
		t.Errorf("without files: %v", err)
	}
}
