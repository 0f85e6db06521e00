// Package share owns the directory that a pod's VM sees of the host: how mounts
// get into it without ever appearing in the host's mount namespace, and how
// they leave.
//
// The command opens each root file system and bind source in its caller's mount
// namespace (OpenTree) and sends the descriptor to the supervisor. The
// supervisor lives in a mount namespace of its own, a slave of the host's, in
// which the share is a tmpfs that is a *shared* mount: what is attached to it
// reaches virtiofsd's own namespace, and nothing else. All of it goes when the
// last process of the namespace dies, however it dies.
//
//	<share>/<container>/rootfs       the container's root file system
//	<share>/<container>/mounts/<n>   its n-th bind mount; or memory-<n>: what its
//	                                 n-th memory volume is a copy of, while the
//	                                 container is being created
//
// <container> is of NewName: the container's id with something that makes it new.
//
// A path below a mount is never resolved here: the guest can write there. The
// share itself it has read-only: what is above the mounts stays as this package
// has made it, through a mount of the same tmpfs that nobody else can reach.
package share

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Dir is the shared directory of one pod.
type Dir struct {
	path string
	// writable is a detached mount of the tmpfs, without what is attached to the
	// share; root is its directory.
	writable *os.File
	root     *os.Root

	mu         sync.Mutex
	containers map[string][]string // mount points of each, in order of mounting
}

// New makes a share at path, an existing directory, in the calling process's
// mount namespace, which must be private to it: it becomes a slave of the
// namespace it was cloned from, all over.
func New(path string) (*Dir, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("make the mount namespace a slave: %w", err)
	}
	if err := unix.Mount("kata-share", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=%#o,size=16m", passage)); err != nil {
		return nil, fmt.Errorf("mount the share at %s: %w", path, err)
	}
	d := &Dir{path: path, containers: make(map[string][]string)}
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// prepare keeps a writable mount, and makes the one at path read-only and
// shared, in that order: the former is to have no peer.
func (d *Dir) prepare() (err error) {
	if d.writable, err = OpenTree(d.path, false); err != nil {
		return err
	}
	if d.root, err = os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", d.writable.Fd())); err != nil {
		return fmt.Errorf("open the share at %s: %w", d.path, err)
	}
	attributes := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_SHARED}
	if err := unix.MountSetattr(unix.AT_FDCWD, d.path, 0, attributes); err != nil {
		return fmt.Errorf("make %s a read-only shared mount: %w", d.path, err)
	}
	return nil
}

// Path is the directory to be shared with the VM.
func (d *Dir) Path() string { return d.path }

// Mount is one detached tree on its way into the share.
type Mount struct {
	// Name is "rootfs", "mounts/<n>" or "mounts/memory-<n>": see Rootfs,
	// Bind and Memory.
	Name string
	// Tree is closed by Add.
	Tree       *os.File
	Attributes Attributes
	// Temporary: it is there while the container is being created, and then
	// detached.
	Temporary bool
}

// NewName returns a name for a container's directory in a share that no directory
// has ever had. The guest remembers for a while what a name has led to: a
// container that is made again under the same id would be mounted on what is gone,
// and lose its mounts when the guest's kernel notices.
func NewName(container string) string {
	const readable = 64 // of an id that may be 1024 bytes long; a file's name has 255
	return container[:min(len(container), readable)] + "-" + rand.Text()
}

// Rootfs is the name of a container's root file system in its directory.
const Rootfs = "rootfs"

// Bind is the name of a container's n-th bind mount in its directory.
func Bind(n int) string { return "mounts/" + strconv.Itoa(n) }

// Memory is the name, in a container's directory, of what its n-th memory volume
// begins as a copy of.
func Memory(n int) string { return "mounts/memory-" + strconv.Itoa(n) }

// Add makes the container's directory and attaches its mounts. After an error
// nothing of the container is left in the share. The trees are closed in any
// case.
func (d *Dir) Add(container string, mounts []Mount) (err error) {
	defer func() {
		for _, mount := range mounts {
			mount.Tree.Close()
		}
	}()
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, taken := d.containers[container]; taken {
		return fmt.Errorf("share container %s: it is shared already", container)
	}
	if err := d.mkdir(container); err != nil {
		return fmt.Errorf("share container %s: %w", container, err)
	}
	d.containers[container] = nil
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove(container))
		}
	}()
	if err := d.mkdir(filepath.Join(container, "mounts")); err != nil {
		return fmt.Errorf("share container %s: %w", container, err)
	}
	for _, mount := range mounts {
		if err := d.attach(container, mount); err != nil {
			return fmt.Errorf("share container %s: %w", container, err)
		}
	}
	return nil
}

// passage is the mode of the directories above the mounts: the root of a
// container in a user namespace is none here, and must be able to pass on its
// way to its own root file system. It cannot list them, nor reach them once it
// is there.
const passage = 0o711

// mkdir makes a directory above mounts, whatever the umask. When it fails,
// nothing is left.
func (d *Dir) mkdir(name string) error {
	if err := d.root.Mkdir(name, passage); err != nil {
		return err
	}
	if err := d.root.Chmod(name, passage); err != nil {
		return errors.Join(err, d.root.Remove(name))
	}
	return nil
}

func (d *Dir) attach(container string, mount Mount) error {
	name := filepath.Join(container, mount.Name)
	directory, err := IsDirectory(mount.Tree)
	if err != nil {
		return err
	}
	if directory {
		err = d.root.Mkdir(name, 0o700)
	} else {
		var file *os.File
		if file, err = d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	if err := SetAttributes(mount.Tree, mount.Attributes); err != nil {
		return err
	}
	path := filepath.Join(d.path, name)
	target, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open a mount point: %w", err)
	}
	defer target.Close()
	if err := Attach(mount.Tree, target); err != nil {
		return err
	}
	d.containers[container] = append(d.containers[container], path)
	return nil
}

// Remove detaches the container's mounts and removes its directory. A container
// that is not shared is no error.
func (d *Dir) Remove(container string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(container)
}

// Detach takes one of the container's mounts out of the share.
func (d *Dir) Detach(container, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := filepath.Join(d.path, container, name)
	i := slices.Index(d.containers[container], path)
	if i < 0 {
		return fmt.Errorf("detach %s of container %s: it is not in the share", name, container)
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("detach %s of container %s: %w", name, container, err)
	}
	d.containers[container] = slices.Delete(d.containers[container], i, i+1)
	return nil
}

func (d *Dir) remove(container string) error {
	mounts, known := d.containers[container]
	if !known {
		return nil
	}
	var errs []error
	for len(mounts) > 0 {
		last := len(mounts) - 1
		if err := unix.Unmount(mounts[last], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", mounts[last], err))
			break // its directory is still in use
		}
		mounts = mounts[:last]
		d.containers[container] = mounts
	}
	if len(errs) == 0 {
		// Only what this package made is left: a tmpfs of its own.
		if err := d.root.RemoveAll(container); err != nil {
			errs = append(errs, err)
		} else {
			delete(d.containers, container)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("unshare container %s: %w", container, errors.Join(errs...))
	}
	return nil
}

// Close detaches everything, the share itself included. Idempotent.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for container := range d.containers {
		errs = append(errs, d.remove(container))
	}
	if err := unix.Unmount(d.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmount the share at %s: %w", d.path, err))
	}
	if d.root != nil {
		errs = append(errs, d.root.Close())
	}
	if d.writable != nil {
		if err := d.writable.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, fmt.Errorf("close the share at %s: %w", d.path, err))
		}
	}
	return errors.Join(errs...)
}
