package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// systemAssets is where a package installs the kernel and the initrd.
const systemAssets = "/usr/share/kata-containers"

// assets is a kernel and an initrd that belong together.
type assets struct{ kernel, initrd string }

// assetSets lists what ResolveAssets looks for. What lies beside the program comes
// before what is installed, so that a checkout uses its own.
func assetSets(executable, system string) []assets {
	var sets []assets
	for _, dir := range assetDirs(executable, system) {
		sets = append(sets, setsIn(dir)...)
	}
	return sets
}

func assetDirs(executable, system string) []string {
	return []string{filepath.Join(filepath.Dir(executable), "..", "share", "kata-containers"), system}
}

// setsIn lists a directory's. A kernel of our own comes before a distribution's,
// because it boots faster.
func setsIn(dir string) []assets {
	return []assets{
		{filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd.img")},
		{filepath.Join(dir, "debian", "vmlinuz"), filepath.Join(dir, "debian", "initrd.img")},
	}
}

// ResolveAssets fills empty Kernel and Initrd with the first set of which both
// exist: vmlinux and initrd.img in ../share/kata-containers of the directory of
// executable, the program's absolute path; vmlinuz and initrd.img in the
// directory debian there; the same two in /usr/share/kata-containers. Kernel
// and initrd always come from one set. The error of a failed search says what
// to do. Files that the configuration names are not looked at. For machines of another
// architecture than the host's, the files are those of [guest]'s table, or in
// directories of its name.
func (c *Config) ResolveAssets(executable string) error {
	return c.resolveAssets(executable, systemAssets)
}

func (c *Config) resolveAssets(executable, system string) error {
	if c.Hypervisor.Emulated() {
		return c.resolveForeign(executable, system)
	}
	if c.Hypervisor.Kernel != "" && (c.Hypervisor.Initrd != "" || c.Hypervisor.Image != "") {
		return nil
	}
	sets := assetSets(executable, system)
	found, err := firstSet(sets)
	if err != nil {
		return err
	}
	if found == nil {
		return noAssetsError(sets)
	}
	c.Hypervisor.Kernel, c.Hypervisor.Initrd = found.kernel, found.initrd
	return nil
}

// firstSet finds the first complete set; nil: there is none.
func firstSet(sets []assets) (*assets, error) {
	for _, set := range sets {
		found, err := set.exist()
		if err != nil {
			return nil, err
		}
		if found {
			return &set, nil
		}
	}
	return nil, nil //nolint:nilnil // see above
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
	return fmt.Errorf("%w (looked for %s): run `make build image` in the checkout, "+
		"or set kernel and initrd in [%s] of the configuration", ErrNoAssets, listSets(sets), machineTable)
}
