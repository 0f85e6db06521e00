package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"kata-runtime/kernel-config/cache"
	"kata-runtime/kernel-config/debpkg"
)

// debianSource is the package that carries the kernel's source.
const debianSource = "linux-source-6.1"

// Source is a kernel source archive: a tar archive, compressed or not, with one
// directory at its top.
type Source struct {
	// ID tells it from every other source, and is fit for a file name.
	ID string
	// fetch returns the archive's path. It is called only if something has to
	// be unpacked: a kernel from the cache needs no source.
	fetch func(ctx context.Context) (string, error)
}

// FromTarball is the source in a given archive.
func FromTarball(path string) (source Source, err error) {
	file, err := os.Open(path)
	if err != nil {
		return Source{}, fmt.Errorf("kernel source: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return Source{}, fmt.Errorf("kernel source: %w", err)
	}
	return Source{
		ID:    "tarball-" + hex.EncodeToString(hash.Sum(nil))[:16],
		fetch: func(context.Context) (string, error) { return path, nil },
	}, nil
}

// FromDebian is the source that Debian builds its own kernel from, in the
// version that apt offers. It is downloaded when it is needed.
func FromDebian(ctx context.Context, packages *debpkg.Source) (Source, error) {
	found, err := packages.Resolve(ctx, debianSource)
	if err != nil {
		return Source{}, err
	}
	fetch := func(ctx context.Context) (string, error) {
		dir, err := packages.Unpack(ctx, found)
		return filepath.Join(dir, "usr", "src", debianSource+".tar.xz"), err
	}
	return Source{ID: found.Key(), fetch: fetch}, nil
}

// unpack returns the directory of the unpacked source in the cache. Nothing
// may be written there: builds take place elsewhere.
func (b *Builder) unpack(ctx context.Context, source Source) (string, error) {
	dir, err := cache.Get(ctx, b.CacheDir, "tree-"+source.ID, func(ctx context.Context, dir string) error {
		tarball, err := source.fetch(ctx)
		if err != nil {
			return err
		}
		args := []string{"-x", "--strip-components=1", "--no-same-owner", "-C", dir, "-f", tarball}
		for _, pattern := range neverBuilt() {
			args = append(args, "--exclude=*/"+pattern)
		}
		return b.run(ctx, nil, "tar", args...)
	})
	if err != nil {
		return "", fmt.Errorf("unpack the kernel source %s: %w", source.ID, err)
	}
	return dir, nil
}

// neverBuilt lists what is not unpacked, as patterns of tar: two thirds of the
// source's size are drivers for hardware that no VM has. Their Kconfig files and
// Makefiles stay, because the kernel's build system reads them all.
func neverBuilt() []string {
	return []string{
		"drivers/gpu/*.[chS]", "drivers/infiniband/*.[ch]", "drivers/media/*.[ch]",
		"drivers/net/ethernet/*.[ch]", "drivers/net/wireless/*.[ch]", "drivers/scsi/*.[ch]",
		"drivers/staging/*.[ch]", "drivers/usb/*.[ch]", "sound/*.[ch]",
		"arch/*/boot/dts/*.dts*", "Documentation/*.rst", "Documentation/*.yaml", "tools/testing/*.[ch]",
	}
}
