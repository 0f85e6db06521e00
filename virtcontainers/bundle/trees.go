package bundle

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/mountpoint"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/share"
)

// Mount is a part of the container's file system as a process on the host is to
// find it. Its fields are those of standin.Mount.
type Mount struct {
	// Tree is detached; nil: the guest alone has a file system there.
	Tree *os.File
	// Destination is the path in the container; empty for the root.
	Destination string
	Attributes  share.Attributes
}

// Trees are the detached mounts of a container, twice: for the share, and for a
// process on the host that stands for the container.
type Trees struct {
	// Share begins with the root file system, unless the guest mounts that, and ends
	// with what is copied.
	Share []share.Mount
	// Root and Mounts, in this order, are the host process's.
	Root   Mount
	Mounts []Mount
}

// OpenTrees clones the container's mounts as this process sees them: it is the
// one in the caller's mount namespace. Close releases them. With a read-only root
// file system, the mount points in it are made before.
func (b *Bundle) OpenTrees() (_ *Trees, err error) {
	t := &Trees{}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if b.GuestRoot == "" {
		if err := b.openRoot(t); err != nil {
			return nil, err
		}
	}
	binds := b.Guest.Binds
	for _, mount := range b.Guest.Spec.Mounts {
		switch {
		case len(binds) > 0 && mount.Source == binds[0].GuestSource:
			if err := t.bind(binds[0], b.Dir); err != nil {
				return nil, err
			}
			binds = binds[1:]
		case mount.Type == "tmpfs", mount.Type == "ramfs", b.isMemory(mount.Source):
			t.Mounts = append(t.Mounts, Mount{Destination: mount.Destination})
		}
	}
	for i, volume := range b.Guest.Memory {
		if err := t.copied(i, volume); err != nil {
			return nil, fmt.Errorf("memory volume: %w", err)
		}
	}
	return t, nil
}

// openRoot clones the root file system.
func (b *Bundle) openRoot(t *Trees) (err error) {
	if b.Spec.Root.Readonly { // for the guest as for the container
		if err := b.makeMountPoints(); err != nil {
			return err
		}
	}
	root := share.Attributes{ReadOnly: b.Spec.Root.Readonly}
	t.Root.Attributes = root
	if t.Root.Tree, err = t.open(share.Rootfs, b.Rootfs, true, root, nil); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	return nil
}

// isMemory tells whether a mount's source in the guest is a memory volume, or in
// one.
func (b *Bundle) isMemory(source string) bool {
	return slices.ContainsFunc(b.Guest.Memory, func(v oci.MemoryVolume) bool { return v.MountPoint == source }) ||
		slices.ContainsFunc(b.Guest.MemoryDirectories, func(d oci.MemoryDirectory) bool { return d.MountPoint == source })
}

// bind opens what a bind shows. An overlay is put together on directory, an existing
// one, where nobody sees it.
func (t *Trees) bind(bind oci.Bind, directory string) error {
	set := attributes(bind)
	if bind.Overlay != nil {
		trees, err := mountpoint.Overlay(bind.Overlay, directory, 2)
		if err != nil {
			return fmt.Errorf("mount %s: %w", bind.Destination, err)
		}
		t.Share = append(t.Share, share.Mount{Name: share.Bind(bind.Index), Tree: trees[0], Attributes: set})
		t.Mounts = append(t.Mounts, Mount{Tree: trees[1], Destination: bind.Destination, Attributes: set})
		return nil
	}
	tree, err := t.open(share.Bind(bind.Index), bind.Source, bind.Recursive, set, bind.IDMapping)
	if err != nil {
		return fmt.Errorf("mount %s: %w", bind.Destination, err)
	}
	t.Mounts = append(t.Mounts, Mount{Tree: tree, Destination: bind.Destination, Attributes: set})
	return nil
}

// copied opens what a memory volume begins as a copy of, if it does.
func (t *Trees) copied(index int, volume oci.MemoryVolume) error {
	if volume.Source == "" {
		return nil
	}
	tree, err := share.OpenTree(volume.Source, false)
	if err != nil {
		return err
	}
	t.Share = append(t.Share, share.Mount{
		Name: share.Memory(index), Tree: tree, Attributes: share.Attributes{ReadOnly: true}, Temporary: true,
	})
	if volume.IDMapping == nil {
		return nil
	}
	return mapIDs(volume.IDMapping, tree)
}

// open clones the mount at path for the share, and returns another clone for
// the host's process.
func (t *Trees) open(name, path string, recursive bool, set share.Attributes, mapping *oci.IDMapping) (*os.File, error) {
	forShare, err := share.OpenTree(path, recursive)
	if err != nil {
		return nil, err
	}
	t.Share = append(t.Share, share.Mount{Name: name, Tree: forShare, Attributes: set})
	forHost, err := share.OpenTree(path, recursive)
	if err == nil && mapping != nil {
		if err = mapIDs(mapping, forShare, forHost); err != nil {
			forHost.Close()
		}
	}
	return forHost, err
}

// mapIDs makes trees that are attached nowhere yet id-mapped.
func mapIDs(mapping *oci.IDMapping, trees ...*os.File) error {
	convert := func(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
		var converted []syscall.SysProcIDMap
		for _, m := range list {
			converted = append(converted, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
		}
		return converted
	}
	users, err := share.NewUserNamespace(convert(mapping.UIDs), convert(mapping.GIDs))
	if err != nil {
		return err
	}
	defer users.Close()
	for _, tree := range trees {
		if err := share.MapIDs(tree, users, mapping.Recursive); err != nil {
			return err
		}
	}
	return nil
}

func attributes(bind oci.Bind) share.Attributes {
	return share.Attributes{
		ReadOnly: bind.ReadOnly, RecursiveReadOnly: bind.RecursiveReadOnly, Follow: bind.Follow,
	}
}

// Close lets go of the trees that have not been attached. Idempotent.
func (t *Trees) Close() {
	for _, mount := range t.Share {
		mount.Tree.Close()
	}
	t.CloseHosts()
}

// CloseHosts lets go of those that are for a process on the host, where there is
// none.
func (t *Trees) CloseHosts() {
	for _, mount := range append(t.Mounts, t.Root) {
		if mount.Tree != nil {
			mount.Tree.Close()
		}
	}
}
