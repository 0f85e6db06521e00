package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/kernel-config/needs"
)

func TestCommandLineErrors(t *testing.T) {
	tests := map[string][]string{
		"no command":               nil,
		`unknown command "x"`:      {"x"},
		"debian: -o is missing":    {"debian"},
		"build: -o is missing":     {"build"},
		"index: want one":          {"index"},
		"open /dev/null/absent":    {"index", "/dev/null/absent"},
		`unexpected argument "y"`:  {"list", "y"},
		"check: want one file":     {"check", "y", "z"},
		"open /dev/null/config":    {"check", "/dev/null/config"},
		`the architecture "mips"`:  {"check", "-arch", "mips"},
		"kernel source: open /dev": {"check", "-source", "/dev/null/absent"},
	}
	for want, args := range tests {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run(%q) = %v, want %q", args, err, want)
		}
	}
}

func TestInstallDebian(t *testing.T) {
	root, output := t.TempDir(), filepath.Join(t.TempDir(), "debian")
	const release = "6.1.0-9-cloud-amd64"
	if err := installDebian(root, release, output); err == nil || !strings.Contains(err.Error(), "no modules of release") {
		t.Errorf("installDebian without modules = %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "lib", "modules", release), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "lib", "modules", release, "modules.builtin"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "boot"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "boot", "vmlinuz-"+release), []byte("kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "boot", "config-"+release), []byte("CONFIG_SMP=y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := installDebian(root, release, output); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(output, "vmlinuz")); err != nil || string(text) != "kernel" {
		t.Errorf("vmlinuz = %q, %v", text, err)
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"check", filepath.Join(output, "vmlinuz")}, &out); !errors.Is(err, needs.ErrRequired) ||
		!strings.Contains(out.String(), "vmlinuz.config: 1 options are enabled;") {
		t.Errorf("check of the kernel without a program in it = %v\n%s", err, &out)
	}
	if _, err := os.Stat(filepath.Join(output, "modules", release, "modules.sha256")); err != nil {
		t.Error(err)
	}
}
