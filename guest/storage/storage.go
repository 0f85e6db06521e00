// Package storage mounts in the guest what containers find there: the
// directories that the host shares with the pod, and the file systems that are
// made or attached for one container. It also keeps the number of files that
// the guest remembers of the shares below what their server can bear.
package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// ErrInvalid is wrapped by errors about a request that asks for something that
// does not exist.
var ErrInvalid = errors.New("invalid storage")

// MountShare mounts a directory of the host, and makes its mount point. A share
// whose mount point holds a mount already is left alone.
func MountShare(share *protocol.Share) error {
	switch share.GetFstype() {
	case "virtiofs", "9p":
	default:
		return fmt.Errorf("share %q: %w: file system %q", share.GetTag(), ErrInvalid, share.GetFstype())
	}
	return mountAt(share.GetTag(), share.GetFstype(), share.GetMountPoint(), share.GetOptions())
}

// Mount mounts a container's storage, makes its mount point and fills it with
// what it is to begin with. After an error it is not mounted.
func Mount(ctx context.Context, s *protocol.Storage) error {
	if err := mount(ctx, s); err != nil || s.GetCopyFrom() == "" {
		return err
	}
	err := CopyInto(ctx, s.GetCopyFrom(), s.GetMountPoint())
	// The host's file system has been mounted by looking there. It takes with it
	// what the guest remembers, and so what the host keeps open.
	if unmountErr := unix.Unmount(s.GetCopyFrom(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err == nil && !errors.Is(unmountErr, unix.EINVAL) {
		err = unmountErr
	}
	if err != nil {
		err = errors.Join(err, Unmount(s.GetMountPoint()))
	}
	return err
}

func mount(ctx context.Context, s *protocol.Storage) error {
	switch s.GetDriver() {
	case "tmpfs":
		return mountAt("tmpfs", "tmpfs", s.GetMountPoint(), s.GetOptions())
	case "disk":
		return mountDisk(ctx, s)
	case "overlay":
		return mountOverlay(s)
	case "directory":
		return mountDirectory(s.GetSource(), s.GetPath(), s.GetMountPoint())
	default:
		return fmt.Errorf("storage %q: %w: driver %q", s.GetSource(), ErrInvalid, s.GetDriver())
	}
}

func mountAt(source, fstype, target string, options []string) error {
	if !filepath.IsAbs(target) {
		return fmt.Errorf("mount %s %q: %w: mount point %q is not absolute", fstype, source, ErrInvalid, target)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s %q: %w", fstype, source, err)
	}
	flags, data := parseOptions(options)
	if err := unix.Mount(source, target, fstype, flags, data); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s %q on %s: %w", fstype, source, target, err)
	}
	return nil
}

// Unmount undoes Mount: it unmounts whatever is mounted at target and removes
// the then empty directory. Nothing mounted there is not an error. What is in use is
// detached, and unmounted with its last user.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW) // a disk is written back then
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}
