package rootfs

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/oci"
)

// Disks are a root file system that the guest puts together of disks.
type Disks struct {
	images []image
	layers []layer
	// root is what is made of the layers; nil: there is one, and it is the root.
	root *template
}

// image is the path of a block device or an image file.
type image struct {
	path     string
	readOnly bool
}

// layer is a file system on disks.
type layer struct {
	kind        string
	options     []string
	images      []int // of Disks
	directories []*protocol.StorageDirectory
}

// guestTypes are the file systems of disks that the guest's kernel has, and whether
// they are read-only by their nature.
func guestTypes() map[string]bool { return map[string]bool{"ext4": false, "erofs": true} }

// AsDisks finds out whether a list is of disks that the guest is to have and put
// together; nil: it is for Mount. Such lists are
//
//   - one file system on a block device or in an image file (the snapshotters
//     devmapper and blockfile, and a single layer of erofs);
//   - layers, and an overlay of them or a part of one, that containerd's mount
//     manager has left to this runtime, as Handled asks it to: type format/mkdir/overlay,
//     or another whose paths are templates such as {{ mount 0 }}.
//
// A single id-mapped file system is none: its owners are the host's to map.
func AsDisks(mounts []*types.Mount) (*Disks, error) {
	if len(mounts) == 0 {
		return nil, nil //nolint:nilnil // it is there already
	}
	last := len(mounts) - 1
	if last == 0 {
		return asDisk(mounts[0])
	}
	if !hasTemplate(mounts[last]) {
		return nil, nil //nolint:nilnil // the mount manager has done the rest
	}
	d := &Disks{}
	for _, m := range mounts[:last] {
		if err := d.add(m); err != nil {
			return nil, fmt.Errorf("mount the root file system: %s: %w", describe(m), err)
		}
	}
	if err := d.assemble(mounts[last]); err != nil {
		return nil, fmt.Errorf("mount the root file system: %s: %w", describe(mounts[last]), err)
	}
	return d, nil
}

// asDisk is AsDisks for a list of one.
func asDisk(m *types.Mount) (*Disks, error) {
	if _, known := guestTypes()[m.GetType()]; !known || m.GetTarget() != "" {
		return nil, nil //nolint:nilnil // Mount says what is wrong with it
	}
	if o, err := parseOptions(m.GetOptions()); err != nil || isBind(m, o) || o.uids != nil {
		return nil, nil //nolint:nilnil,nilerr // likewise
	}
	d := &Disks{}
	if err := d.add(m); err != nil {
		return nil, fmt.Errorf("mount the root file system: %s: %w", describe(m), err)
	}
	return d, nil
}

// add adds a file system on a disk.
func (d *Disks) add(m *types.Mount) error {
	readOnly, known := guestTypes()[m.GetType()]
	if !known {
		return fmt.Errorf("a layer of this type is %w", oci.ErrUnsupported)
	}
	o, err := check(m)
	switch {
	case err != nil:
		return err
	case m.GetTarget() != "":
		return fmt.Errorf("a layer in another, at %s, is %w", m.GetTarget(), oci.ErrUnsupported)
	case isBind(m, o) || o.uids != nil:
		return fmt.Errorf("an id-mapped layer, or a bind mount, is %w", oci.ErrUnsupported)
	}
	l := layer{kind: m.GetType(), images: []int{d.image(m.GetSource(), readOnly || o.flags&unix.MS_RDONLY != 0)}}
	for _, option := range o.data {
		if further, ok := cutDevice(l.kind, option); ok {
			l.images = append(l.images, d.image(further, true))
			continue
		}
		l.options = append(l.options, option)
	}
	l.options = append(flagNames(o.flags), l.options...)
	if readOnly && o.flags&unix.MS_RDONLY == 0 {
		l.options = append([]string{"ro"}, l.options...)
	}
	d.layers = append(d.layers, l)
	return nil
}

// image notes a disk and returns its number.
func (d *Disks) image(path string, readOnly bool) int {
	d.images = append(d.images, image{path: path, readOnly: readOnly})
	return len(d.images) - 1
}

// assemble notes what is made of the layers.
func (d *Disks) assemble(m *types.Mount) error {
	t, err := parseTemplate(m, len(d.layers))
	if err != nil {
		return err
	}
	for _, made := range t.directories {
		l := &d.layers[made.layer]
		l.directories = append(l.directories, made.directory)
	}
	if t.kind == "bind" && d.layers[t.source.layer].isReadOnly() != slices.Contains(t.options, "ro") {
		return fmt.Errorf("a read-only part of a layer that is not, or the reverse, is %w", oci.ErrUnsupported)
	}
	d.root = t
	return nil
}

func (l *layer) isReadOnly() bool { return slices.Contains(l.options, "ro") }

// Root is where the guest has the root file system of a container with this name,
// which is of share.NewName.
func Root(name string) string { return path.Join(protocol.RootMountPoint, name) }

// Storages are what the guest is to mount for a container with this name, when the
// disks have these serials. The last is mounted at Root.
func (d *Disks) Storages(name string, serials []string) []*protocol.Storage {
	var list []*protocol.Storage
	for i, l := range d.layers {
		s := &protocol.Storage{
			Driver: "disk", Source: serials[l.images[0]], Fstype: l.kind, Options: l.options, Directories: l.directories,
			MountPoint: d.mountPoint(name, i),
		}
		for _, further := range l.images[1:] {
			s.FurtherDisks = append(s.FurtherDisks, serials[further])
		}
		list = append(list, s)
	}
	if d.root == nil {
		return list
	}
	root := &protocol.Storage{MountPoint: Root(name)}
	if d.root.kind == "bind" {
		root.Driver, root.Source, root.Path = "directory", d.mountPoint(name, d.root.source.layer), d.root.source.path
		return append(list, root)
	}
	root.Driver, root.Options = "overlay", d.root.options
	at := func(p place) *protocol.StoragePlace {
		return &protocol.StoragePlace{MountPoint: d.mountPoint(name, p.layer), Path: p.path}
	}
	for _, lower := range d.root.lower {
		root.Lower = append(root.Lower, at(lower))
	}
	if d.root.upper != nil {
		root.Upper, root.Work = at(*d.root.upper), at(*d.root.work)
	}
	return append(list, root)
}

// mountPoint is that of a layer.
func (d *Disks) mountPoint(name string, number int) string {
	if d.root == nil {
		return Root(name)
	}
	return Root(name) + "." + strconv.Itoa(number)
}

// Open opens the disks, in the order of Storages' serials. Their paths are looked up
// in the mount namespace host; nil: this process's.
func (d *Disks) Open(host *os.File) (images []device.Image, err error) {
	open := func() error {
		for _, i := range d.images {
			opened, err := device.OpenImage(i.path, i.readOnly)
			if err != nil {
				return err
			}
			images = append(images, opened)
		}
		return nil
	}
	if host != nil {
		err = namespace.WithMounts(host, open)
	} else {
		err = open()
	}
	if err != nil {
		device.CloseImages(images)
		return nil, fmt.Errorf("open the disks of the root file system: %w", err)
	}
	return images, nil
}
