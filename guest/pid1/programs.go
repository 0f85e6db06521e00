package pid1

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// programs is the directory of an image for those who look for a fault: others have
// none.
const programs = "/bin"

// copyPrograms copies a directory of files and links, which need not be there. It
// is another file system that they come to.
func copyPrograms(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Mkdir(to, 0o755)
	}
	if err != nil {
		return fmt.Errorf("keep the image's programs: %w", err)
	}
	for _, entry := range entries {
		if err := copyProgram(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()), entry.Type()); err != nil {
			return fmt.Errorf("keep the image's programs: %w", err)
		}
	}
	return nil
}

func copyProgram(from, to string, kind fs.FileMode) (err error) {
	if kind == fs.ModeSymlink {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.Copy(file, source)
	return err
}
