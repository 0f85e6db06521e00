// Package bundle makes OCI bundles for tests, benchmarks and the demo: a root
// file system with nothing in it but a static busybox, and a configuration
// with the defaults that container managers use.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Busybox is where Debian's package busybox-static puts the program.
const Busybox = "/bin/busybox"

// Write makes the directory dir a bundle: config.json with the given spec, and
// the busybox root file system in dir/rootfs.
func Write(dir string, spec *specs.Spec) error {
	if err := WriteConfig(dir, spec); err != nil {
		return err
	}
	return Rootfs(filepath.Join(dir, "rootfs"))
}

// WriteConfig writes dir/config.json alone, and makes dir if need be.
func WriteConfig(dir string, spec *specs.Spec) error {
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// Rootfs fills the directory dir, which need not exist, with the usual empty
// directories, a passwd and a group file, busybox, and a link in /bin for each
// of busybox's commands.
func Rootfs(dir string) error {
	for _, name := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr/bin", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return fmt.Errorf("make root file system: %w", err)
		}
	}
	tmp := filepath.Join(dir, "tmp")
	if err := errors.Join(os.MkdirAll(tmp, 0o755), os.Chmod(tmp, 0o777|fs.ModeSticky)); err != nil {
		return fmt.Errorf("make root file system: %w", err)
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":  "root:x:0:\nuser:x:1000:\nextra:x:2000:user\nnogroup:x:65534:\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("make root file system: %w", err)
		}
	}
	return installBusybox(filepath.Join(dir, "bin"))
}

func installBusybox(bin string) error {
	if err := copyProgram(Busybox, filepath.Join(bin, "busybox")); err != nil {
		return fmt.Errorf("copy busybox (package busybox-static): %w", err)
	}
	list, err := exec.Command(Busybox, "--list").Output() //nolint:noctx // prints a list and ends
	if err != nil {
		return fmt.Errorf("list busybox's commands: %w", err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link busybox's commands: %w", err)
		}
	}
	return nil
}

func copyProgram(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	_, err = io.Copy(target, source)
	return err
}
