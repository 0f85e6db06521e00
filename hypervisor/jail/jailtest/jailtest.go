// Package jailtest has a program that stands in the place of one that is confined,
// and tries what an attacker who has taken that one over would: it reports what it
// has reached. What it tries does no harm where it succeeds.
package jailtest

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// Targets are what the probe looks for on the host, besides what every host has.
type Targets struct {
	// Files must not be opened, Sockets (paths, or abstract ones with an @) and
	// Addresses (TCP) not connected to, Processes not signalled.
	Files, Sockets, Addresses []string
	Processes                 []int
	// Handle is the handle of a file, HandleType its type: see Handle.
	Handle     []byte
	HandleType int32
}

// Report is what the probe found.
type Report struct {
	// Attempts is how many there were.
	Attempts int
	// Reached are those that were not refused, by their names.
	Reached []string
	// Killed are those that the process was ended for.
	Killed []string
	// Descriptors are its open files, by what they are.
	Descriptors []string
	// Files are all that it sees in its root file system, but for the shared
	// directory's content.
	Files []string
}

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
