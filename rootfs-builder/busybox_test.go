package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/rootfs-builder/image"
)

func TestBusyboxIsStatic(t *testing.T) {
	var contents image.Contents
	if err := addBusybox(t.Context(), &contents, "/bin/bash"); err == nil || !strings.Contains(err.Error(), "busybox-static") {
		t.Errorf("a program with libraries: %v", err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := addBusybox(t.Context(), &contents, script); err == nil {
		t.Error("a script was taken")
	}
}

func TestBusyboxHasItsLinks(t *testing.T) {
	var contents image.Contents
	if err := addBusybox(t.Context(), &contents, "/bin/busybox"); err != nil {
		t.Fatal(err)
	}
	manifest, err := contents.WriteFiles(filepath.Join(t.TempDir(), "image"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	modes := make(map[string]string)
	for _, entry := range manifest.Entries {
		modes[entry.Path] = entry.Mode
	}
	if modes["/bin/busybox"] != "-rwxr-xr-x" || modes["/bin/sh"] != "Lrwxrwxrwx" || modes["/bin/ps"] == "" {
		t.Errorf("busybox is %q, sh %q, ps %q", modes["/bin/busybox"], modes["/bin/sh"], modes["/bin/ps"])
	}
}
