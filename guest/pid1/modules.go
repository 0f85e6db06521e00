package pid1

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// modulesList names the modules to load: one absolute path per line, in order
// of dependency. An image for a kernel that has everything built in has no
// such file.
const modulesList = "/lib/modules/load"

// loadModules loads what the image lists. A module that fails is reported and
// skipped: whether it was needed shows later, with a better error.
func loadModules(con *console) {
	data, err := os.ReadFile(modulesList)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			con.println("kata-init: " + err.Error())
		}
		return
	}
	for _, path := range parseModules(data) {
		if err := loadModule(path); err != nil {
			con.println("kata-init: " + err.Error())
		}
	}
}

// parseModules returns the paths of a module list; empty lines and lines that
// begin with # are skipped.
func parseModules(data []byte) []string {
	var paths []string
	for line := range bytes.Lines(data) {
		path := strings.TrimSpace(string(line))
		if path != "" && path[0] != '#' {
			paths = append(paths, path)
		}
	}
	return paths
}

// keepDigest copies what the image says of modules that may be loaded later, if it says
// anything.
func keepDigest(from, to string) error {
	digest, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.WriteFile(to, digest, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the digest of the image's modules: %w", err)
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer file.Close()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}
