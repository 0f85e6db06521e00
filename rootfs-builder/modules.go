package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/kmod"
)

// moduleList is the file of the image that lists the modules in load order.
const moduleList = "/lib/modules/load"

// moduleDigest is the file of the image that names, by the digest of their digests, the
// modules that may be loaded later, from a directory that the host shows.
const moduleDigest = "/lib/modules/digest"

// requiredModules are the drivers of the devices that every VM has, and the
// file systems that containers need, in the order in which a guest should load
// them: the console first, so that whatever goes wrong afterwards is seen.
func requiredModules() []string {
	return []string{
		"virtio_pci", "virtio_console",
		"vmw_vsock_virtio_transport",
		"fuse", "virtiofs", "overlay",
		"virtio_blk", "virtio_net", "virtio_rng",
	}
}

// optionalModules are packed where the kernel has them: the share that serves
// hosts without virtiofsd.
func optionalModules() []string {
	return []string{"9p", "9pnet_virtio"}
}

// diskModules make a disk image the root file system. The ciphers are asked for by name,
// before the guest can answer its kernel; those that a CPU may lack are left out.
func diskModules() (required, optional []string) {
	return []string{"dm_verity", "erofs", "ext4"}, []string{"crc32c_generic", "sha256_generic"}
}

// addModules packs the modules of a release, the only one in dir if release is
// empty, and returns the release.
func addModules(contents *image.Contents, dir, release string, disk bool) (string, error) {
	if release == "" {
		only, err := onlyRelease(dir)
		if err != nil {
			return "", err
		}
		release = only
	}
	tree, err := kmod.Open(filepath.Join(dir, release))
	if err != nil {
		return "", err
	}
	required, optional := requiredModules(), optionalModules()
	if disk {
		more, ciphers := diskModules()
		required, optional = append(required, more...), append(optional, ciphers...)
	}
	modules, err := tree.Select(required, optional)
	if err != nil {
		return "", fmt.Errorf("kernel %s: %w", release, err)
	}
	var list strings.Builder
	for _, module := range modules {
		target := path.Join("/lib/modules", release, module.Path)
		contents.HostFile(target, 0o644, module.File)
		fmt.Fprintln(&list, target)
	}
	contents.File(moduleList, 0o644, []byte(list.String()))
	return release, addDigest(contents, filepath.Join(dir, release))
}

// addDigest lets the guest load the modules of a release's directory later, if that has
// an index.
func addDigest(contents *image.Contents, dir string) error {
	digest, err := kmod.IndexDigest(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		contents.File(moduleDigest, 0o644, []byte(digest+"\n"))
	}
	return err
}

func onlyRelease(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("find the kernel release: %w", err)
	}
	var releases []string
	for _, entry := range entries {
		if entry.IsDir() {
			releases = append(releases, entry.Name())
		}
	}
	switch len(releases) {
	case 1:
		return releases[0], nil
	case 0:
		return "", fmt.Errorf("%s holds no kernel release", dir)
	default:
		return "", errors.New("-kernel-release is missing: " + dir + " holds " + strings.Join(releases, ", "))
	}
}
