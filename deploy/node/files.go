package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// tree is the node's file system. Paths are absolute ones of the node.
type tree struct {
	root *os.Root
	// before is called before each change; nil: not. Tests end a run there.
	before func(change, name string)
}

func (t tree) changing(change, name string) {
	if t.before != nil {
		t.before(change, name)
	}
}

// inside is a path of the node as os.Root takes it.
func inside(name string) string {
	if name = strings.TrimPrefix(path.Clean(name), "/"); name == "" {
		return "."
	}
	return name
}

// temporary is the name that a file has until it is whole. It is always the same
// one, so that one that was left is found. CRI-O reads every file of its
// directory, whatever its name: there it is one directory further up.
func temporary(name string) string {
	dir := path.Dir(name)
	if dir == path.Dir(crioDropIn) {
		dir = path.Dir(dir)
	}
	return path.Join(dir, "."+path.Base(name)+".kata-new")
}

// exists tells whether a name is taken, by whatever it is.
func (t tree) exists(name string) (bool, error) {
	_, err := t.root.Lstat(inside(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s on the node: %w", name, err)
	}
	return true, nil
}

// regular returns what a file is, nil when it is not there. What is no regular
// file is an error: it would be replaced by one.
func (t tree) regular(name string) (fs.FileInfo, error) {
	info, err := t.root.Lstat(inside(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no file is no error
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s on the node: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s on the node is no regular file but %v: it would be replaced by one; name the file itself", name, info.Mode().Type())
	}
	return info, nil
}

// hash is that of a file's content, "" when there is none.
func (t tree) hash(name string) (string, error) {
	info, err := t.regular(name)
	if err != nil || info == nil {
		return "", err
	}
	file, err := t.root.Open(inside(name))
	if err != nil {
		return "", fmt.Errorf("read %s on the node: %w", name, err)
	}
	defer file.Close()
	return hashOf(file, name)
}

func hashOf(from io.Reader, name string) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, from); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// read returns a file's text, "" when there is none.
func (t tree) read(name string) (text string, found bool, err error) {
	info, err := t.regular(name)
	if err != nil || info == nil {
		return "", false, err
	}
	data, err := t.root.ReadFile(inside(name))
	if err != nil {
		return "", false, fmt.Errorf("read %s on the node: %w", name, err)
	}
	return string(data), true, nil
}

// missingDirs lists those of a file's directories that are not there, the
// outermost first.
func (t tree) missingDirs(name string) ([]string, error) {
	var missing []string
	for dir := path.Dir(path.Clean(name)); dir != "/" && dir != "."; dir = path.Dir(dir) {
		found, err := t.exists(dir)
		if err != nil {
			return nil, err
		}
		if found {
			break
		}
		missing = append([]string{dir}, missing...)
	}
	return missing, nil
}

// stage writes a file under its temporary name, with the owner and mode of the
// one that it will replace, or root's and mode.
func (t tree) stage(name string, mode fs.FileMode, content io.Reader) error {
	dir := path.Dir(path.Clean(name))
	t.changing("mkdir", dir)
	if err := t.root.MkdirAll(inside(dir), 0o755); err != nil {
		return fmt.Errorf("make %s on the node: %w", dir, err)
	}
	old, err := t.regular(name)
	if err != nil {
		return err
	}
	hidden := temporary(name)
	if err := t.removeFile(hidden); err != nil {
		return err
	}
	t.changing("create", hidden)
	file, err := t.root.OpenFile(inside(hidden), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm())
	if err != nil {
		return fmt.Errorf("write %s on the node: %w", name, err)
	}
	_, err = io.Copy(file, content)
	if owner := ownerOf(old); err == nil && owner != nil && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
		err = file.Chown(int(owner.Uid), int(owner.Gid))
	}
	if err == nil {
		err = file.Chmod(mode.Perm()) // whatever the umask is
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s on the node: %w", name, errors.Join(err, t.removeFile(hidden)))
	}
	return nil
}

func ownerOf(info fs.FileInfo) *syscall.Stat_t {
	if info == nil {
		return nil
	}
	stat, _ := info.Sys().(*syscall.Stat_t)
	return stat
}

// commit gives a staged file its name.
func (t tree) commit(name string) error {
	t.changing("rename", name)
	if err := t.root.Rename(inside(temporary(name)), inside(name)); err != nil {
		return fmt.Errorf("replace %s on the node: %w", name, err)
	}
	return t.syncDir(path.Dir(path.Clean(name)))
}

func (t tree) write(name string, mode fs.FileMode, content io.Reader) error {
	if err := t.stage(name, mode, content); err != nil {
		return err
	}
	return t.commit(name)
}

// syncDir makes what was renamed or removed in a directory last.
func (t tree) syncDir(dir string) error {
	file, err := t.root.Open(inside(dir))
	if err == nil {
		err = errors.Join(file.Sync(), file.Close())
	}
	if err != nil {
		return fmt.Errorf("make changes in %s last: %w", dir, err)
	}
	return nil
}

// removeFile removes a file if it is there.
func (t tree) removeFile(name string) error {
	t.changing("remove", name)
	if err := t.root.Remove(inside(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s on the node: %w", name, err)
	}
	return nil
}

// removeDir removes a directory if it is empty.
func (t tree) removeDir(name string) error {
	t.changing("rmdir", name)
	err := t.root.Remove(inside(name))
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EBUSY) {
		return nil
	}
	return fmt.Errorf("remove %s on the node: %w", name, err)
}

// modeOf is a file's mode, or that of a new configuration.
func (t tree) modeOf(name string) (fs.FileMode, error) {
	info, err := t.regular(name)
	if err != nil {
		return 0, err
	}
	if info == nil {
		return 0o644, nil
	}
	return info.Mode().Perm(), nil
}
