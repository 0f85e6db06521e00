package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a root file system that can only be read.
type Root struct {
	// Files are files and directories of the host that are there under the same
	// names, without set-user-id bits and devices.
	Files []string `json:"files,omitempty"`
	// Shares are directories of the host that can be written to, with all that is
	// mounted below them, now and later, as the parent's mount namespace has it.
	Shares []string `json:"shares,omitempty"`
	// Self shows the process itself, and no other, at /proc/self.
	Self bool `json:"self,omitempty"`
	// Directories are empty, for what the process mounts by itself.
	Directories []string `json:"directories,omitempty"`
	// Devices are character devices of the host, such as /dev/kvm, that the
	// process's user may open. One that the host lacks is left out.
	Devices []string `json:"devices,omitempty"`
}

// rootSize bounds the tmpfs, which holds names alone.
const rootSize = "size=1m,nr_inodes=4096,mode=755"

// mountPoint is a directory that every host has, and where none of the files is.
const mountPoint = "/proc"

// enter makes the root in the mount namespace of this process, and leaves nothing
// else there.
func (r *Root) enter(user int) error {
	// Nothing that is mounted here reaches the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts slaves of the parent's: %w", err)
	}
	// Before the host is out of sight.
	trees, err := r.openTrees()
	if err != nil {
		return err
	}
	devices, err := findDevices(r.Devices)
	if err != nil {
		return err
	}
	unix.Umask(0)
	if err := mountEmptyRoot(); err != nil {
		return err
	}
	for _, t := range trees {
		if err := t.bind(); err != nil {
			return err
		}
	}
	if err := enterEmptyRoot(); err != nil {
		return err
	}
	// What is made from here on cannot lead to the host any more, whatever the names.
	for _, t := range trees {
		if err := t.attach(); err != nil {
			return err
		}
	}
	if err := makeAliases(trees); err != nil {
		return err
	}
	for _, name := range r.Directories {
		if err := os.MkdirAll(name, 0o755); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
	}
	for _, d := range devices {
		if err := d.make(user); err != nil {
			return err
		}
	}
	if r.Self {
		if err := showSelf(); err != nil {
			return fmt.Errorf("show /proc/self: %w", err)
		}
	}
	unix.Umask(0o077)
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
	if len(devices) == 0 {
		attributes.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attributes); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// mountEmptyRoot mounts the later root. Devices can be opened on it, since no other
// place has any.
func mountEmptyRoot() error {
	err := unix.Mount("jail", mountPoint, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, rootSize)
	if err == nil {
		err = unix.Mount("", mountPoint, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("mount an empty root: %w", err)
	}
	return nil
}

// enterEmptyRoot makes the mounted tmpfs the root of the mount namespace, with all
// that is mounted on it, and the working directory.
func enterEmptyRoot() error {
	if err := unix.Chdir(mountPoint); err != nil {
		return fmt.Errorf("enter the empty root: %w", err)
	}
	// The old root is stacked on the new one, where the working directory is.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the empty root: %w (a host whose root is its initial RAM disk or no mount cannot: move it to a tmpfs with switch_root; %s)", err, advice(PartRoot))
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the empty root: %w", err)
	}
	return nil
}

// showSelf attaches the directory of this process, which is the later one's too,
// of a procfs that is there for a moment.
func showSelf() error {
	const scratch = "/scratch"
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("proc", scratch, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount a procfs: %w", err)
	}
	self, err := unix.OpenTree(unix.AT_FDCWD, scratch+"/self", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	if err := unix.Unmount(scratch, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount a procfs: %w", err)
	}
	if err := os.Remove(scratch); err != nil {
		return err
	}
	if err := os.MkdirAll("/proc/self", 0o755); err != nil {
		return err
	}
	return unix.MoveMount(self, "", unix.AT_FDCWD, "/proc/self", unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// tree is a copy of a mount that is not attached anywhere yet, or what is to become
// one.
type tree struct {
	// name is what it is called, path the same without symbolic links in its
	// directory.
	name, path string
	fd         int
	directory  bool
	// share tells that it can be written to, with what is mounted below it.
	share bool
}

func (r *Root) openTrees() ([]*tree, error) {
	var trees []*tree
	directories := make(map[string]string)
	seen := make(map[string]bool)
	for i, name := range slices.Concat(r.Shares, r.Files) {
		name = filepath.Clean(name)
		parent, base := filepath.Split(name)
		target, known := directories[parent]
		if !known {
			var err error
			if target, err = filepath.EvalSymlinks(parent); err != nil {
				return nil, fmt.Errorf("find %s: %w", name, err)
			}
			directories[parent] = target
		}
		t := &tree{name: name, path: filepath.Join(target, base), share: i < len(r.Shares)}
		if !filepath.IsAbs(t.path) || t.path == "/" {
			return nil, fmt.Errorf("show %s: %w", name, fs.ErrInvalid)
		}
		trees = append(trees, t)
		if seen[t.path] || t.share {
			t.fd = -1 // there already, or attached by bind
			continue
		}
		seen[t.path] = true
		if err := t.open(); err != nil {
			return nil, err
		}
	}
	// A directory before what is mounted in it.
	slices.SortStableFunc(trees, func(a, b *tree) int { return strings.Compare(a.path, b.path) })
	return trees, nil
}

// bind attaches a share below the mounted root, in one step: a tree that is not
// attached gets nothing of what is mounted below its source meanwhile.
func (t *tree) bind() error {
	if !t.share {
		return nil
	}
	// All of it is below an empty tmpfs: no symbolic link is in the way.
	target := filepath.Join(mountPoint, t.path)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make room for %s: %w", t.path, err)
	}
	if err := unix.Mount(t.path, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", t.path, err)
	}
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_SLAVE}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attributes); err != nil {
		return fmt.Errorf("protect %s: %w", t.path, err)
	}
	return nil
}

func (t *tree) open() error {
	var err error
	if t.fd, err = unix.OpenTree(unix.AT_FDCWD, t.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		return fmt.Errorf("open %s: %w", t.path, err)
	}
	attributes := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(t.fd, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return fmt.Errorf("protect %s: %w", t.path, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(t.fd, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", t.path, err)
	}
	t.directory = stat.Mode&unix.S_IFMT == unix.S_IFDIR
	return nil
}

// attach puts the tree in its place, which may be inside a directory that is
// there already, with it.
func (t *tree) attach() error {
	if t.fd < 0 {
		return nil
	}
	defer unix.Close(t.fd)
	if _, err := os.Stat(t.path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(t.path), 0o755); err != nil {
		return fmt.Errorf("make room for %s: %w", t.path, err)
	}
	var err error
	if t.directory {
		err = unix.Mkdir(t.path, 0o755)
	} else {
		err = unix.Mknod(t.path, unix.S_IFREG|0o444, 0)
	}
	if err != nil {
		return fmt.Errorf("make room for %s: %w", t.path, err)
	}
	if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, t.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("show %s: %w", t.path, err)
	}
	return nil
}

// makeAliases makes a symbolic link where a file's name goes through one on the
// host: /lib, for most.
func makeAliases(trees []*tree) error {
	aliases := make(map[string]string)
	for _, t := range trees {
		if alias, target := filepath.Dir(t.name), filepath.Dir(t.path); alias != target {
			aliases[alias] = target
		}
	}
	names := make([]string, 0, len(aliases))
	for name := range aliases {
		names = append(names, name)
	}
	// That of a directory may have made those inside it.
	slices.SortFunc(names, func(a, b string) int { return len(a) - len(b) })
	for _, name := range names {
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if err == nil {
			err = os.Symlink(aliases[name], name)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the link %s: %w", name, err)
		}
	}
	return nil
}

// device is a character device's name and number.
type device struct {
	path   string
	number uint64
}

func findDevices(paths []string) ([]device, error) {
	var found []device
	for _, path := range paths {
		var stat unix.Stat_t
		err := unix.Stat(path, &stat)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("find %s: %w", path, err)
		case stat.Mode&unix.S_IFMT != unix.S_IFCHR:
			return nil, fmt.Errorf("%s is no character device: %w", path, fs.ErrInvalid)
		default:
			found = append(found, device{path: path, number: stat.Rdev})
		}
	}
	return found, nil
}

// make makes the device anew, for the user alone: so it needs no group of the
// host's, and nothing has to be known of the mode there.
func (d *device) make(user int) error {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o755); err != nil {
		return fmt.Errorf("make room for %s: %w", d.path, err)
	}
	if err := unix.Mknod(d.path, unix.S_IFCHR|0o600, int(d.number)); err != nil {
		return fmt.Errorf("make %s: %w", d.path, err)
	}
	if err := unix.Chown(d.path, user, user); err != nil {
		return fmt.Errorf("give %s to user %d: %w", d.path, user, err)
	}
	return nil
}
