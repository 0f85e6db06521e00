//go:build vm

package qemu

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/jail"
)

// QEMU is found and confined wherever it is; where that cannot be, the error says why.
func TestOddPlaces(t *testing.T) {
	installed, err := Find("")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	place := func(parts ...string) string {
		path := filepath.Join(append([]string{dir}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	install := func(path string, mode os.FileMode) string {
		t.Helper()
		from, err := os.Open(installed)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, mode)
		if err == nil {
			_, err = io.Copy(to, from)
			err = errors.Join(err, to.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, path string) string {
		t.Helper()
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	script := place("script", "qemu")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec "+installed+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// With its modules, where a distribution has made some of it modules.
	store := install(place("nix", "store", "h4sh-qemu-7.2, patched", "bin", "qemu"), 0o755)
	modules, err := acceleratorModules(installed)
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range modules {
		relative, err := filepath.Rel(filepath.Dir(filepath.Dir(installed)), module)
		if err != nil {
			t.Fatal(err)
		}
		link(module, place("nix", "store", "h4sh-qemu-7.2, patched", relative))
	}
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"where it is installed":          {installed, nil},
		"a path with spaces and a comma": {store, nil},
		"a symbolic link":                {link(installed, place("bin", "qemu")), nil},
		"a link to a link":               {link(filepath.Join(dir, "bin", "qemu"), place("bin", "qemu again")), nil},
		"in a linked directory":          {filepath.Join(link(filepath.Dir(store), place("profile")), "qemu"), nil},
		"of root's alone":                {install(place("private", "qemu"), 0o700), fs.ErrPermission},
		"a script":                       {script, jail.ErrNoProgram},
		"none":                           {filepath.Join(dir, "none"), fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			err := TryJail(t.Context(), c.path, accel.TCG, jail.Options{Dir: filepath.Join(t.TempDir(), "jail"), User: 2_000_001_234})
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s: %v", c.path, err)
			}
		})
	}
}
