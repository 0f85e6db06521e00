package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/kernel-config/needs"
	"kata-runtime/virtcontainers/config"
)

// check --guest names what the configured kernel lacks, by the record beside it, and
// counts a module where the configuration has modules.
func TestCheckGuest(t *testing.T) {
	list, err := needs.List()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, need := range list {
		if !need.Forbidden && !strings.HasPrefix(need.Options[0], "CONFIG_IP_VS") {
			all.WriteString(need.Options[0] + "=y\n")
		}
	}
	settings := config.Default().Hypervisor
	settings.Kernel = filepath.Join(t.TempDir(), "vmlinux")
	if _, err := compareGuest(settings); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no kernel: %v", err)
	}
	if err := os.WriteFile(settings.Kernel, []byte("MZ"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := compareGuest(settings); !errors.Is(err, kconfig.ErrNoConfig) {
		t.Errorf("of a kernel without a record: %v", err)
	}
	record := func(more string) {
		t.Helper()
		if err := os.WriteFile(kconfig.Recorded(settings.Kernel), []byte(all.String()+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := func() (string, error) {
		t.Helper()
		report, err := compareGuest(settings)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := report.print(&out); err != nil {
			t.Fatal(err)
		}
		return out.String(), needs.Required(report.Missing)
	}

	record("CONFIG_IP_VS=m\n")
	if got, err := text(); err != nil || !strings.Contains(got, "Kubernetes in a container (k3s, kind):\n") ||
		!strings.Contains(got, "CONFIG_IP_VS ") || !strings.Contains(got, "module ") {
		t.Errorf("a kernel with a module: %v\n%s", err, got)
	}
	settings.Modules = "/modules"
	if got, _ := text(); strings.Contains(got, "CONFIG_IP_VS ") || !strings.Contains(got, "CONFIG_IP_VS_RR ") {
		t.Errorf("with modules:\n%s", got)
	}
	record("CONFIG_VSOCKETS_LOOPBACK=y\n")
	if got, err := text(); !errors.Is(err, needs.ErrRequired) || !strings.Contains(got, "CONFIG_VSOCKETS_LOOPBACK=n") {
		t.Errorf("a kernel with vsock's loopback: %v\n%s", err, got)
	}
}
