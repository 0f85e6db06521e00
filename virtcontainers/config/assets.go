package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// systemAssets is where a package installs the kernel and the initrd.
const systemAssets = "/usr/share/kata-containers"

// assets is a kernel and an initrd that belong together.
type assets struct{ kernel, initrd string }

// assetSets lists what ResolveAssets looks for. A kernel of our own comes
// before a distribution's, because it boots faster; what lies beside the
// program comes before what is installed, so that a checkout uses its own.
func assetSets(executable, system string) []assets {
	beside := filepath.Join(filepath.Dir(executable), "..", "share", "kata-containers")
	var sets []assets
	for _, dir := range []string{beside, system} {
		sets = append(sets,
			assets{filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd.img")},
			assets{filepath.Join(dir, "debian", "vmlinuz"), filepath.Join(dir, "debian", "initrd.img")})
	}
	return sets
}

// ResolveAssets fills empty Kernel and Initrd with the first set of which both
// exist: vmlinux and initrd.img in ../share/kata-containers of the directory of
// executable, the program's absolute path; vmlinuz and initrd.img in the
// directory debian there; the same two in /usr/share/kata-containers. Kernel
// and initrd always come from one set. The error of a failed search says what
// to do. Files that the configuration names are not looked at.
func (c *Config) ResolveAssets(executable string) error {
	return c.resolveAssets(executable, systemAssets)
}

func (c *Config) resolveAssets(executable, system string) error {
	if c.Hypervisor.Kernel != "" && (c.Hypervisor.Initrd != "" || c.Hypervisor.Image != "") {
		return nil
	}
	sets := assetSets(executable, system)
	for _, set := range sets {
		found, err := set.exist()
		if err != nil {
			return err
		}
		if found {
			c.Hypervisor.Kernel, c.Hypervisor.Initrd = set.kernel, set.initrd
			return nil
		}
	}
	return noAssetsError(sets)
}

func (a assets) exist() (bool, error) {
	for _, path := range []string{a.kernel, a.initrd} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look for the guest's kernel and initrd: %w", err)
		}
		if !info.Mode().IsRegular() {
			return false, nil
		}
	}
	return true, nil
}

// ErrNoAssets is wrapped by the error of a ResolveAssets that found nothing.
var ErrNoAssets = errors.New("no guest kernel with its initrd was found")

func noAssetsError(sets []assets) error {
	var looked []string
	for _, set := range sets {
		looked = append(looked, fmt.Sprintf("%s with %s", set.kernel, filepath.Base(set.initrd)))
	}
	return fmt.Errorf("%w (looked for %s): run `make build image` in the checkout, "+
		"or set kernel and initrd in [%s] of the configuration", ErrNoAssets, strings.Join(looked, ", "), machineTable)
}
