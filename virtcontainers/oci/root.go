package oci

import "path"

// transformRoot owns root.path: the guest sees the root file system in its
// share.
func transformRoot(t *translation) error {
	spec := t.spec()
	t.guest.Rootfs = t.options.Rootfs
	if t.guest.Rootfs == "" {
		t.guest.Rootfs = RootfsPath(t.options.BundleDir, spec)
	}
	spec.Root.Path = path.Join(t.options.SharePath, "rootfs")
	return nil
}
