package container

import (
	"path/filepath"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/storage"
)

// rootShared tells whether the root file system is a directory of the share, and none of
// a storage that was mounted for the container.
func (c *container) rootShared() bool {
	for _, mounted := range c.mounted {
		if below, err := filepath.Rel(mounted, c.spec.Root.Path); err == nil && filepath.IsLocal(below) {
			return false
		}
	}
	return true
}

// flushRoot lets the host, or the disk, have all that was written to the root file
// system.
func (c *container) flushRoot() error {
	if c.rootShared() {
		return storage.FlushShares(c.spec.Root.Path)
	}
	return storage.Flush(c.spec.Root.Path)
}

// forgetRoot unmounts the root file system. The kernel has mounted it by itself, as one of
// its own within the share, when the agent has looked there, and nobody will go there
// again: with it goes what the guest remembers of it, and the host has open.
func (c *container) forgetRoot() {
	if c.spec.Root != nil && c.rootShared() {
		_ = unix.Unmount(c.spec.Root.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // not each file server has it as one
	}
}
