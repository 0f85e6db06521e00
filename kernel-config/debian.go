package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"kata-runtime/kernel-config/cache"
	"kata-runtime/kernel-config/debpkg"
	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/rootfs-builder/kmod"
)

// runDebian puts Debian's cloud kernel into a directory: vmlinuz and its
// configuration, copies, and modules, a link to the unpacked /lib/modules in the
// cache. It prints the kernel's release.
func runDebian(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("debian", flag.ContinueOnError)
	output := flags.String("o", "", "`directory` that receives vmlinuz and modules")
	cacheDir := flags.String("cache", defaultCache(), "cache `folder`")
	arch := flags.String("arch", runtime.GOARCH, "`architecture`: amd64 or arm64")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *output == "" {
		return errors.New("debian: -o is missing")
	}
	source := &debpkg.Source{CacheDir: filepath.Join(*cacheDir, "debian"), Arch: *arch}
	root, release, err := debianKernel(ctx, source, *arch)
	if err != nil {
		return err
	}
	if err := installDebian(root, release, *output); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, release)
	return err
}

// debianKernel unpacks the cloud kernel and returns the directory of its files
// and its release. The metapackage names the package of the current release;
// Debian's names of the architectures that have one are Go's.
func debianKernel(ctx context.Context, source *debpkg.Source, arch string) (root, release string, err error) {
	meta, err := source.Resolve(ctx, "linux-image-cloud-"+arch)
	if err != nil {
		return "", "", err
	}
	name := meta.DependencyWithPrefix("linux-image-")
	if name == "" {
		return "", "", fmt.Errorf("the package %s names no kernel package: it depends on %q", meta.Name, meta.Depends)
	}
	image, err := source.Resolve(ctx, name)
	if err != nil {
		return "", "", err
	}
	root, err = source.Unpack(ctx, image)
	if err != nil {
		return "", "", err
	}
	release = name[len("linux-image-"):]
	return root, release, nil
}

// indexModules writes the index that a guest finds its modules by, unless it is
// there.
func indexModules(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, kmod.DigestFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return kmod.WriteIndex(dir)
}

// runPackage unpacks Debian packages, of any architecture, into the cache and prints
// where each of them is.
func runPackage(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("package", flag.ContinueOnError)
	cacheDir := flags.String("cache", defaultCache(), "cache `folder`")
	arch := flags.String("arch", runtime.GOARCH, "`architecture`: amd64 or arm64")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("package: want names of packages")
	}
	source := &debpkg.Source{CacheDir: filepath.Join(*cacheDir, "debian"), Arch: *arch}
	for _, name := range flags.Args() {
		found, err := source.Resolve(ctx, name)
		if err != nil {
			return err
		}
		dir, err := source.Unpack(ctx, found)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, dir); err != nil {
			return err
		}
	}
	return nil
}

// runIndex writes the index of the modules of somebody else's kernel.
func runIndex(args []string) error {
	flags := flag.NewFlagSet("index", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("index: want one directory, such as /lib/modules/6.1.0")
	}
	return kmod.WriteIndex(flags.Arg(0))
}

func installDebian(root, release, output string) error {
	modules := filepath.Join(root, "lib", "modules")
	if _, err := os.Stat(filepath.Join(modules, release)); err != nil {
		return fmt.Errorf("the kernel package holds no modules of release %s: %w", release, err)
	}
	// The package leaves it to depmod, at its installation.
	if err := indexModules(filepath.Join(modules, release)); err != nil {
		return err
	}
	if err := cache.CopyFile(filepath.Join(root, "boot", "vmlinuz-"+release), filepath.Join(output, "vmlinuz")); err != nil {
		return err
	}
	if err := cache.CopyFile(filepath.Join(root, "boot", "config-"+release), kconfig.Recorded(filepath.Join(output, "vmlinuz"))); err != nil {
		return err
	}
	return cache.Symlink(modules, filepath.Join(output, "modules"))
}
