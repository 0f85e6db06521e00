package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// CopyFile makes target a copy of source with permissions 0644. The target
// appears by rename: whoever reads it sees the old content or the new one.
func CopyFile(source, target string) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", target, err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return WriteFile(target, in)
}

// WriteFile makes target a file with the content that it reads from source and
// permissions 0644. The target appears by rename; its directory is created as
// needed.
func WriteFile(target string, source io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	out, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	_, err = io.Copy(out, source)
	if err == nil {
		err = out.Chmod(0o644)
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(out.Name(), target)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", target, err), os.Remove(out.Name()))
	}
	return nil
}

// Symlink makes target a symbolic link to source, relative where that is
// possible, and replaces a link or file that is there. Its directory is made as needed.
func Symlink(source, target string) error {
	directory, err := filepath.Abs(filepath.Dir(target))
	if err != nil {
		return fmt.Errorf("link %s: %w", target, err)
	}
	if source, err = filepath.Abs(source); err != nil {
		return fmt.Errorf("link %s: %w", target, err)
	}
	if relative, err := filepath.Rel(directory, source); err == nil {
		source = relative
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("link %s: %w", target, err)
	}
	temporary, err := os.MkdirTemp(directory, "."+filepath.Base(target)+".*")
	if err != nil {
		return fmt.Errorf("link %s: %w", target, err)
	}
	link := filepath.Join(temporary, "link")
	if err = os.Symlink(source, link); err == nil {
		err = os.Rename(link, target)
	}
	if err = errors.Join(err, os.RemoveAll(temporary)); err != nil {
		return fmt.Errorf("link %s: %w", target, err)
	}
	return nil
}
