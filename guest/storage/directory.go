package storage

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/confined"
)

// mountDirectory mounts what is at a path in the directory root on target, which
// it makes. Directories that do not exist are made, with the mode of root.
// Containers write to root: a link of theirs never leads out of it.
func mountDirectory(root, name, target string) error {
	if !filepath.IsAbs(target) {
		return fmt.Errorf("mount %s of %s: %w: mount point %q is not absolute", name, root, ErrInvalid, target)
	}
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("mount %s of %s: %w", name, root, err)
	}
	defer dir.Close()
	source, err := makeIn(dir, name)
	if err != nil {
		return fmt.Errorf("mount %s of %s: %w", name, root, err)
	}
	defer source.Close()
	if err := makeTarget(source, target); err != nil {
		return fmt.Errorf("mount %s of %s: %w", name, root, err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", source.Fd()), target, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("mount %s of %s on %s: %w", name, root, target, err), os.Remove(target))
	}
	return nil
}

// makeTarget makes a mount point of the kind that a file needs.
func makeTarget(source *os.File, target string) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

// makeIn opens a path below root, and makes the directories that do not exist.
func makeIn(root *os.File, name string) (*os.File, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &stat); err != nil {
		return nil, err
	}
	parent, err := openIn(root, "/")
	if err != nil {
		return nil, err
	}
	prefix := ""
	for _, element := range strings.FieldsFunc(path.Join("/", name), func(c rune) bool { return c == '/' }) {
		prefix += "/" + element
		next, err := openIn(root, prefix)
		if errors.Is(err, unix.ENOENT) {
			if err = makeDirectory(parent, element, stat.Mode&0o7777); err == nil {
				next, err = openIn(root, prefix)
			}
		}
		parent.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", prefix, err)
		}
		parent = next
	}
	return parent, nil
}

func makeDirectory(parent *os.File, name string, mode uint32) error {
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
		return err // also for a link that leads nowhere
	}
	dir, err := openDirectory(int(parent.Fd()), name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Fchmod(int(dir.Fd()), mode) // whatever the umask
}

// openIn opens a path as a process would whose root is given, on root's own file
// system.
func openIn(root *os.File, name string) (*os.File, error) {
	return confined.Open(root, name, unix.RESOLVE_NO_XDEV)
}
