package rootimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// VerifyInitrd reads an initrd and compares its size and digest with the manifest beside
// it, which ManifestPath names. The error wraps ErrMismatch where it is another one. Without
// a manifest, as an initrd has that rootfs-builder did not make, there is nothing to
// compare with, and no error.
func VerifyInitrd(path string) error {
	m, err := readManifest(ManifestPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("guest initrd %s: %w", path, err)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("guest initrd: %w", err)
	}
	defer file.Close()
	if err := m.compare(file); err != nil {
		return fmt.Errorf("guest initrd %s: %w (build it again, or remove %s if it is to be another one)", path, err, ManifestPath(path))
	}
	return nil
}
