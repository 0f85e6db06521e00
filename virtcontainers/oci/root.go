package oci

import (
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// transformRoot owns root.path: the guest sees the root file system in its
// share, or mounts it itself.
func transformRoot(t *translation) error {
	spec := t.spec()
	if t.options.RootPath != "" {
		spec.Root.Path = t.options.RootPath
		return nil
	}
	spec.Root.Path = path.Join(t.options.SharePath, "rootfs")
	if spec.Root.Readonly {
		fillDev(spec)
	}
	return nil
}

// fillDev gives a container a /dev in which devices can be made, where its root
// file system is read-only for the guest as a whole: it begins with what the
// root file system has there, as that would without a mount.
func fillDev(spec *specs.Spec) {
	isDev := func(m specs.Mount) bool { return path.Join("/", m.Destination) == "/dev" }
	if slices.ContainsFunc(spec.Mounts, isDev) {
		return
	}
	spec.Mounts = slices.Insert(spec.Mounts, 0, specs.Mount{
		Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=0755", "tmpcopyup", "ro"},
	})
}
