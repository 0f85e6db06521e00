package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoDisk says that a path leads to what cannot be a disk.
var ErrNoDisk = errors.New("it is neither a block device nor a regular file")

// Image is an open disk: an image file, or a block device that its path has named.
type Image struct {
	Block

	File *os.File
}

// OpenImage opens the image file, or the block device, at a path. One that can be
// written to is for one machine: of a block device the host's kernel sees to that,
// of a file the VMM.
func OpenImage(path string, readOnly bool) (_ Image, err error) {
	flags := unix.O_RDONLY
	if !readOnly {
		flags = unix.O_RDWR
	}
	// What it is, is seen before it is opened: another file could wait for somebody,
	// or do something.
	info, err := os.Stat(path)
	if err != nil {
		return Image{}, err
	}
	if err := isDisk(info); err != nil {
		return Image{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if info.Mode()&os.ModeDevice != 0 && !readOnly {
		flags |= unix.O_EXCL // a mounted one is busy
	}
	file, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return Image{}, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if info, err = file.Stat(); err != nil {
		return Image{}, err
	}
	if err := isDisk(info); err != nil {
		return Image{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Image{}, fmt.Errorf("open %s: no status", path)
	}
	block := Block{Major: unix.Major(stat.Dev), Minor: unix.Minor(stat.Dev), Inode: stat.Ino, ReadOnly: readOnly}
	if info.Mode()&os.ModeDevice != 0 {
		block = Block{Major: unix.Major(stat.Rdev), Minor: unix.Minor(stat.Rdev), ReadOnly: readOnly}
	}
	return Image{Block: block, File: file}, nil
}

func isDisk(info fs.FileInfo) error {
	switch info.Mode().Type() {
	case 0, fs.ModeDevice:
		return nil
	default: // a character device, too
		return ErrNoDisk
	}
}

// CloseImages lets go of images that nobody has taken over.
func CloseImages(images []Image) {
	for _, image := range images {
		closeFile(image.File)
	}
}

func closeFile(file *os.File) {
	if file != nil {
		file.Close()
	}
}
