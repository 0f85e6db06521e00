// Package image writes an initrd, the archive from which a guest's first file
// system is made, and the manifest that says what is in it.
//
// The same contents always give the same bytes: entries are sorted, and owner,
// times and inode numbers are fixed. The archive is an uncompressed newc cpio:
// unpacking a compressed one costs the guest more time than reading the larger
// one costs the host.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// Contents is what goes into an image. The zero value is an empty image.
// Parents of added paths are added as directories with mode 0755. The first
// error sticks and comes out of WriteFiles.
type Contents struct {
	records map[string]cpio.Record
	data    map[string][]byte
	implied map[string]bool // directories that were added as parents alone
	err     error
}

// Directory adds a directory with the given permissions, sticky bit included.
func (c *Contents) Directory(name string, permissions uint64) {
	c.add(cpio.Directory(clean(name), permissions), nil)
}

// CharDevice adds a character device node.
func (c *Contents) CharDevice(name string, permissions, major, minor uint64) {
	c.add(cpio.CharDev(clean(name), permissions, major, minor), nil)
}

// File adds a regular file with the given content.
func (c *Contents) File(name string, permissions uint64, content []byte) {
	c.add(cpio.StaticFile(clean(name), string(content), permissions), content)
}

// Symlink adds a symbolic link.
func (c *Contents) Symlink(name, target string) {
	c.add(cpio.Symlink(clean(name), target), []byte(target))
}

// HostFile adds a regular file with the content of a file of the host.
func (c *Contents) HostFile(name string, permissions uint64, source string) {
	content, err := os.ReadFile(source)
	if err != nil {
		c.err = cmp.Or(c.err, fmt.Errorf("image entry %s: %w", name, err))
		return
	}
	c.File(name, permissions, content)
}

// clean makes a name relative to the image's root, as cpio wants it.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

func (c *Contents) add(record cpio.Record, content []byte) {
	if c.records == nil {
		c.records = make(map[string]cpio.Record)
		c.data = make(map[string][]byte)
		c.implied = make(map[string]bool)
	}
	name := record.Name
	if _, ok := c.records[name]; ok || name == "" {
		c.err = cmp.Or(c.err, fmt.Errorf("image entry %q is empty or was added before", name))
		return
	}
	if parent := path.Dir(name); parent != "." && c.records[parent].Name == "" {
		c.Directory(parent, 0o755)
		c.implied[parent] = true
	}
	c.records[name] = cpio.MakeReproducible(record)
	c.data[name] = content
}

// Tar writes the contents as a tar archive to put on top of others: directories that
// were added only as parents are not in it, nor are device nodes.
func (c *Contents) Tar(to io.Writer) error {
	if c.err != nil {
		return c.err
	}
	archive := tar.NewWriter(to)
	for _, record := range c.sorted() {
		content := c.data[record.Name]
		header := &tar.Header{Name: record.Name, Mode: int64(record.Mode & 0o1777)}
		switch record.Mode & cpio.S_IFMT {
		case cpio.S_IFDIR:
			if c.implied[record.Name] {
				continue
			}
			header.Typeflag = tar.TypeDir
		case cpio.S_IFREG:
			header.Typeflag, header.Size = tar.TypeReg, int64(len(content))
		case cpio.S_IFLNK:
			header.Typeflag, header.Linkname, content = tar.TypeSymlink, string(content), nil
		default:
			continue
		}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("archive %s: %w", record.Name, err)
		}
		if _, err := archive.Write(content); err != nil {
			return fmt.Errorf("archive %s: %w", record.Name, err)
		}
	}
	return archive.Close()
}

// Regular calls f with each regular file, by its absolute path in the guest, in the
// order of the paths.
func (c *Contents) Regular(f func(path string, content []byte)) {
	for _, record := range c.sorted() {
		if record.Mode&cpio.S_IFMT == cpio.S_IFREG {
			f("/"+record.Name, c.data[record.Name])
		}
	}
}

// sorted returns the records by name: parents come before their children, as
// the kernel needs it.
func (c *Contents) sorted() []cpio.Record {
	records := make([]cpio.Record, 0, len(c.records))
	for _, record := range c.records {
		records = append(records, record)
	}
	slices.SortFunc(records, func(a, b cpio.Record) int { return cmp.Compare(a.Name, b.Name) })
	return records
}

// archive returns the image's bytes.
func (c *Contents) archive() ([]byte, error) {
	var buffer bytes.Buffer
	writer := cpio.Newc.Writer(&buffer)
	if err := cpio.WriteRecords(writer, c.sorted()); err != nil {
		return nil, fmt.Errorf("write the archive: %w", err)
	}
	if err := cpio.WriteTrailer(writer); err != nil {
		return nil, fmt.Errorf("write the archive's end: %w", err)
	}
	return buffer.Bytes(), nil
}

// WriteFiles writes the image, and the manifest if manifestPath is not empty.
// Each file appears by rename, the manifest last; directories are created as
// needed. The manifest is returned as well.
func (c *Contents) WriteFiles(imagePath, manifestPath, kernelRelease string) (Manifest, error) {
	if c.err != nil {
		return Manifest{}, c.err
	}
	archive, err := c.archive()
	if err != nil {
		return Manifest{}, err
	}
	manifest := c.manifest(archive, filepath.Base(imagePath), kernelRelease)
	if err := WriteFile(imagePath, archive); err != nil {
		return Manifest{}, err
	}
	if manifestPath == "" {
		return manifest, nil
	}
	return manifest, manifest.Write(manifestPath)
}

// WriteFile writes a file by rename; its directory is created as needed.
func WriteFile(target string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	file, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	_, err = io.Copy(file, bytes.NewReader(content))
	if err == nil {
		err = file.Chmod(0o644)
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), target)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", target, err), os.Remove(file.Name()))
	}
	return nil
}
