package bundle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const pauseELF = "\x7fELF...Shutting down, got signal..."

// pauseBundle is a pod's first container, whose program is at /pause.
func pauseBundle(t *testing.T, program string, mode os.FileMode) *Bundle {
	t.Helper()
	rootfs := t.TempDir()
	if err := os.WriteFile(filepath.Join(rootfs, "pause"), []byte(program), mode); err != nil {
		t.Fatal(err)
	}
	return &Bundle{
		Rootfs: rootfs, declared: true,
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"/pause"}}, Mounts: []specs.Mount{{Destination: "/proc"}}},
	}
}

func TestPauses(t *testing.T) {
	for name, test := range map[string]struct {
		program string
		mode    os.FileMode
		change  func(*Bundle)
		want    bool
	}{
		"pause":           {want: true},
		"its first":       {program: "\x7fELF shutting down, got signal", want: true},
		"by another name": {want: true, change: func(b *Bundle) { link(b, "/pause", "/usr/bin/pod") }},
		"another program": {program: "\x7fELF and more"},
		"a script":        {program: "#!/bin/sh\necho Shutting down, got signal"},
		"not executable":  {mode: 0o644},
		"too large":       {program: pauseELF + string(make([]byte, maxPause))},
		"not declared":    {change: func(b *Bundle) { b.declared = false }},
		"arguments":       {change: func(b *Bundle) { b.Spec.Process.Args = []string{"/pause", "-v"} }},
		"a terminal":      {change: func(b *Bundle) { b.Spec.Process.Terminal = true }},
		"by PATH":         {change: func(b *Bundle) { b.Spec.Process.Args = []string{"pause"} }},
		"covered":         {change: func(b *Bundle) { b.Spec.Mounts = []specs.Mount{{Destination: "/pause/"}} }},
		"in the guest":    {change: func(b *Bundle) { b.GuestRoot = "/run/root" }},
		"a directory":     {change: func(b *Bundle) { b.Spec.Process.Args = []string{"/"} }},
		"out of the root": {change: func(b *Bundle) { escape(t, b) }},
	} {
		t.Run(name, func(t *testing.T) {
			if test.program == "" {
				test.program = pauseELF
			}
			if test.mode == 0 {
				test.mode = 0o755
			}
			b := pauseBundle(t, test.program, test.mode)
			if test.change != nil {
				test.change(b)
			}
			if got := b.Pauses(); got != test.want {
				t.Errorf("pauses: %v, want %v", got, test.want)
			}
		})
	}
}

// link makes an absolute link in the root file system, and has it run.
func link(b *Bundle, target, at string) {
	path := filepath.Join(b.Rootfs, at)
	_ = os.MkdirAll(filepath.Dir(path), 0o755)
	_ = os.Symlink(target, path) // shows in what the test finds
	b.Spec.Process.Args = []string{at}
}

// escape has a pause program run that lies beside the root file system.
func escape(t *testing.T, b *Bundle) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(pauseELF), 0o755); err != nil {
		t.Error(err)
	}
	link(b, outside, "/link")
}
