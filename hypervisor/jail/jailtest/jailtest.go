// Package jailtest has a program that stands in the place of one that is confined,
// and tries what an attacker who has taken that one over would: it reports what it
// has reached. What it tries does no harm where it succeeds.
package jailtest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail/jailtest/attempt"
)

// Targets are what the probe looks for, see package attempt.
type Targets = attempt.Targets

// Report is what the probe found, see package attempt.
type Report = attempt.Report

// Build makes a probe, named name, that knows its targets.
func Build(t testing.TB, name string, targets Targets) (path string) {
	t.Helper()
	data, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path,
		"-ldflags", "-s -w -X main.encoded="+base64.StdEncoding.EncodeToString(data), "kata-runtime/hypervisor/jail/jailtest/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Decode finds the probe's report in text.
func Decode(t testing.TB, text string) Report {
	t.Helper()
	found := regexp.MustCompile(`probe\[([A-Za-z0-9+/=]*)\]`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("the probe says nothing: %s", text)
	}
	data, err := base64.StdEncoding.DecodeString(found[1])
	var r Report
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		t.Fatalf("the probe's report: %v: %s", err, text)
	}
	if r.Attempts < 100 {
		t.Errorf("it has tried %d times only", r.Attempts)
	}
	return r
}

// Handle is that of a file, by which a process with CAP_DAC_READ_SEARCH opens it
// from any place of its file system.
func Handle(t testing.TB, path string) (handle []byte, handleType int32) {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		t.Fatalf("handle of %s: %v", path, err)
	}
	return h.Bytes(), h.Type()
}

// Share makes a directory for a file server to serve, as the targets of a probe in its
// place: with mounts, one of them read-only, and a link to a file beside it. It is for a
// process in a mount namespace of its own.
func Share(t testing.TB) Targets {
	t.Helper()
	top := t.TempDir()
	share, other := filepath.Join(top, "share"), filepath.Join(top, "other")
	secret := filepath.Join(top, "outside")
	mounted, readonly := filepath.Join(share, "mounted"), filepath.Join(share, "readonly")
	for _, dir := range []string{mounted, readonly, other} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.WriteFile(secret, []byte("a canary"), 0o666), os.Symlink(secret, filepath.Join(other, "link")),
		unix.Mount(other, mounted, "", unix.MS_BIND, ""), unix.Mount(other, readonly, "", unix.MS_BIND, ""),
		unix.Mount("", readonly, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{mounted, readonly} {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	targets := Targets{Files: []string{secret, other}, Share: share}
	targets.Handle, targets.HandleType = Handle(t, secret)
	return targets
}
