package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/hotplug"
	"kata-runtime/guest/protocol"
)

// mountDisk mounts the file system on a disk, once the guest has it. Who has
// written the file system is not known: what is made in it stays in it.
func mountDisk(ctx context.Context, s *protocol.Storage) (err error) {
	target := s.GetMountPoint()
	defer func() {
		if err != nil {
			err = fmt.Errorf("mount %s of disk %q on %s: %w", s.GetFstype(), s.GetSource(), target, err)
		}
	}()
	switch {
	case s.GetFstype() == "":
		return fmt.Errorf("%w: no file system type", ErrInvalid)
	case !filepath.IsAbs(target):
		return fmt.Errorf("%w: the mount point is not absolute", ErrInvalid)
	}
	disks, err := hotplug.AwaitDisks(ctx, append([]string{s.GetSource()}, s.GetFurtherDisks()...))
	if err != nil {
		return err
	}
	node := func(serial string) string { return filepath.Join("/dev", disks[serial].Name) }
	flags, data := parseOptions(s.GetOptions())
	for _, serial := range s.GetFurtherDisks() {
		data = strings.TrimPrefix(data+",device="+node(serial), ",")
	}
	if err := makeAndMount(node(s.GetSource()), target, s.GetFstype(), flags, data); err != nil {
		return err
	}
	if err := makeDirectories(target, s.GetDirectories()); err != nil {
		return errors.Join(err, Unmount(target))
	}
	return nil
}

// makeAndMount mounts something on a directory that it makes, and removes after an
// error.
func makeAndMount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(source, target, fstype, flags, data)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("the guest's kernel has no file system of this type: %w", err)
	}
	if err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}

// makeDirectories makes those directories below root that are not there.
func makeDirectories(root string, directories []*protocol.StorageDirectory) error {
	if len(directories) == 0 {
		return nil
	}
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, d := range directories {
		if err := makeMissing(dir, d); err != nil {
			return fmt.Errorf("make directory %s: %w", d.GetPath(), err)
		}
	}
	return nil
}

func makeMissing(root *os.File, d *protocol.StorageDirectory) error {
	name := path.Join("/", d.GetPath())
	there, err := openIn(root, name)
	if err == nil {
		return there.Close()
	}
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	parent, err := openIn(root, path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := makeDirectory(parent, path.Base(name), d.GetMode()&0o7777); err != nil {
		return err
	}
	return unix.Fchownat(int(parent.Fd()), path.Base(name), int(d.GetUid()), int(d.GetGid()), unix.AT_SYMLINK_NOFOLLOW)
}

// mountOverlay mounts an overlay of what other storages have mounted.
func mountOverlay(s *protocol.Storage) (err error) {
	target := s.GetMountPoint()
	defer func() {
		if err != nil {
			err = fmt.Errorf("mount an overlay on %s: %w", target, err)
		}
	}()
	switch {
	case !filepath.IsAbs(target):
		return fmt.Errorf("%w: the mount point is not absolute", ErrInvalid)
	case len(s.GetLower()) == 0:
		return fmt.Errorf("%w: it has no lower layer", ErrInvalid)
	case (s.GetUpper() == nil) != (s.GetWork() == nil):
		return fmt.Errorf("%w: of the upper and the work directory one is missing", ErrInvalid)
	}
	var opened []*os.File
	defer func() {
		for _, file := range opened {
			file.Close()
		}
	}()
	// A path that somebody else has written may lead elsewhere: a descriptor does not.
	open := func(place *protocol.StoragePlace) (string, error) {
		file, err := openPlace(place)
		if err != nil {
			return "", err
		}
		opened = append(opened, file)
		return fmt.Sprintf("/proc/self/fd/%d", file.Fd()), nil
	}
	flags, data := parseOptions(s.GetOptions())
	lower := make([]string, len(s.GetLower()))
	for i, place := range s.GetLower() {
		if lower[i], err = open(place); err != nil {
			return err
		}
	}
	options := []string{"lowerdir=" + strings.Join(lower, ":")}
	if data != "" {
		options = append(options, data)
	}
	for _, writable := range []struct {
		name  string
		place *protocol.StoragePlace
	}{{"upperdir", s.GetUpper()}, {"workdir", s.GetWork()}} {
		if writable.place == nil {
			continue
		}
		directory, err := open(writable.place)
		if err != nil {
			return err
		}
		options = append(options, writable.name+"="+directory)
	}
	return makeAndMount("overlay", target, "overlay", flags, strings.Join(options, ","))
}

// openPlace opens a directory in what a storage has mounted.
func openPlace(place *protocol.StoragePlace) (*os.File, error) {
	if !filepath.IsAbs(place.GetMountPoint()) {
		return nil, fmt.Errorf("layer %q: %w: the mount point is not absolute", place.GetMountPoint(), ErrInvalid)
	}
	root, err := os.OpenFile(place.GetMountPoint(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	defer root.Close()
	file, err := openIn(root, path.Join("/", place.GetPath()))
	if err != nil {
		return nil, fmt.Errorf("layer %s of %s: %w", place.GetPath(), place.GetMountPoint(), err)
	}
	return file, nil
}
