package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/kmod"
)

func TestFlags(t *testing.T) {
	tests := map[string][]string{
		"-agent is missing":              {"-o", "x"},
		"-o is missing":                  {"-agent", "x"},
		"-kernel-release needs -modules": {"-agent", "x", "-o", "y", "-kernel-release", "6"},
		"-disk is for initrds":           {"-agent", "x", "-o", "y", "-disk", "-modules", "z", "-type", "erofs"},
		"and needs -modules":             {"-agent", "x", "-o", "y", "-disk"},
		`unexpected argument "z"`:        {"-agent", "x", "-o", "y", "z"},
	}
	for want, args := range tests {
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run(%q) = %v, want %q", args, err, want)
		}
	}
}

func TestRefusedAgentLeavesNoImage(t *testing.T) {
	// The test's own binary is no agent: it has no seccomp tag.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "initrd.img")
	err = run(t.Context(), []string{"-agent", self, "-o", out}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "seccomp") {
		t.Errorf("run = %v", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("an image was written: %v", err)
	}
}

func TestAddModulesWantsOneRelease(t *testing.T) {
	var contents image.Contents
	dir := t.TempDir()
	if _, err := addModules(&contents, dir, "", false); err == nil || !strings.Contains(err.Error(), "no kernel release") {
		t.Errorf("addModules of an empty directory = %v", err)
	}
	for _, release := range []string{"6.1", "6.2"} {
		if err := os.Mkdir(filepath.Join(dir, release), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := addModules(&contents, dir, "", false); err == nil || !strings.Contains(err.Error(), "6.1, 6.2") {
		t.Errorf("addModules of two releases = %v", err)
	}
	// A kernel that has everything built in needs no module.
	var builtin strings.Builder
	for _, name := range requiredModules() {
		builtin.WriteString("kernel/" + name + ".ko\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "6.1", "modules.builtin"), []byte(builtin.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := addModules(&contents, dir, "6.1", false)
	if err != nil || release != "6.1" {
		t.Fatalf("addModules = %q, %v", release, err)
	}
	// One that has no device mapper cannot mount a disk image.
	if _, err := addModules(&image.Contents{}, dir, "6.1", true); !errors.Is(err, kmod.ErrUnknownModule) || !strings.Contains(err.Error(), "dm_verity") {
		t.Errorf("addModules for a disk image = %v", err)
	}
	manifest, err := contents.WriteFiles(filepath.Join(dir, "initrd.img"), "", release)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range manifest.Entries {
		if entry.Path == moduleList && entry.Size == 0 {
			return
		}
	}
	t.Errorf("the image lacks an empty %s: %+v", moduleList, manifest.Entries)
}
