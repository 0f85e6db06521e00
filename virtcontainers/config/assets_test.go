package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolveAssets(t *testing.T) {
	const (
		own    = "checkout/share/kata-containers/vmlinux"
		ownRD  = "checkout/share/kata-containers/initrd.img"
		deb    = "checkout/share/kata-containers/debian/vmlinuz"
		debRD  = "checkout/share/kata-containers/debian/initrd.img"
		sys    = "system/vmlinux"
		sysRD  = "system/initrd.img"
		sysDeb = "system/debian/vmlinuz"
		sysDRD = "system/debian/initrd.img"
	)
	tests := []struct {
		name           string
		files          []string
		kernel, initrd string
	}{
		{"all", []string{own, ownRD, deb, debRD, sys, sysRD}, own, ownRD},
		{"Debian's kernel", []string{deb, debRD, sys, sysRD}, deb, debRD},
		{"never mixed", []string{own, deb, debRD, sys, sysRD}, deb, debRD},
		{"nor the other way", []string{ownRD, deb, sys, sysRD}, sys, sysRD},
		{"installed, Debian's", []string{own, sysDeb, sysDRD}, sysDeb, sysDRD},
		{"nothing complete", []string{own, debRD, sysDeb}, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{"checkout/bin/kata-runtime": ""}
			for _, file := range test.files {
				files[file] = ""
			}
			dir := write(t, files)
			config := Default()
			err := config.resolveAssets(filepath.Join(dir, "checkout/bin/kata-runtime"), filepath.Join(dir, "system"))
			if test.kernel == "" {
				if !errors.Is(err, ErrNoAssets) || !strings.Contains(err.Error(), "make build image") {
					t.Errorf("error = %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			kernel, initrd := filepath.Join(dir, test.kernel), filepath.Join(dir, test.initrd)
			if config.Hypervisor.Kernel != kernel || config.Hypervisor.Initrd != initrd {
				t.Errorf("got %s and %s", config.Hypervisor.Kernel, config.Hypervisor.Initrd)
			}
		})
	}
}

func TestResolveAssetsKeepsWhatIsSet(t *testing.T) {
	config := Default()
	config.Hypervisor.Kernel, config.Hypervisor.Initrd = "/k", "/i"
	if err := config.ResolveAssets("/nowhere/bin/x"); err != nil {
		t.Fatal(err)
	}
	if config.Hypervisor.Kernel != "/k" || config.Hypervisor.Initrd != "/i" {
		t.Errorf("got %+v", config.Hypervisor)
	}
}
