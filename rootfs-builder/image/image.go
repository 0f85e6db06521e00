// Package image writes an initrd, the archive from which a guest's first file
// system is made, and the manifest that says what is in it.
//
// The same contents always give the same bytes: entries are sorted, and owner,
// times and inode numbers are fixed. The archive is an uncompressed newc cpio:
// unpacking a compressed one costs the guest more time than reading the larger
// one costs the host.
package image

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	}
	name := record.Name
	if _, ok := c.records[name]; ok || name == "" {
		c.err = cmp.Or(c.err, fmt.Errorf("image entry %q is empty or was added before", name))
		return
	}
	if parent := path.Dir(name); parent != "." && c.records[parent].Name == "" {
		c.Directory(parent, 0o755)
	}
	c.records[name] = cpio.MakeReproducible(record)
	c.data[name] = content
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

// Manifest says what is in an image.
type Manifest struct {
	// Image is the archive's file name.
	Image string `json:"image"`
	// SHA256 and Size (bytes) are those of the archive.
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	// KernelRelease is the release that the image's modules are for, empty if
	// it holds none.
	KernelRelease string `json:"kernel_release,omitempty"`
	// Entries are sorted by path.
	Entries []Entry `json:"entries"`
}

// Entry is one file of an image.
type Entry struct {
	// Path is absolute in the guest.
	Path string `json:"path"`
	// Mode is the file's type and permissions, as ls prints them.
	Mode string `json:"mode"`
	// Size in bytes; SHA256 of the content, for regular files only.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
}

func (c *Contents) manifest(archive []byte, name, kernelRelease string) Manifest {
	manifest := Manifest{
		Image: name, SHA256: digest(archive), Size: int64(len(archive)), KernelRelease: kernelRelease,
	}
	for _, record := range c.sorted() {
		entry := Entry{Path: "/" + record.Name, Mode: mode(record.Mode), Size: int64(len(c.data[record.Name]))}
		if record.Mode&cpio.S_IFMT == cpio.S_IFREG {
			entry.SHA256 = digest(c.data[record.Name])
		}
		manifest.Entries = append(manifest.Entries, entry)
	}
	return manifest
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// mode renders the bits that an image can have.
func mode(bits uint64) string {
	mode := fs.FileMode(bits & 0o777)
	if bits&cpio.S_ISTXT != 0 {
		mode |= fs.ModeSticky
	}
	switch bits & cpio.S_IFMT {
	case cpio.S_IFDIR:
		mode |= fs.ModeDir
	case cpio.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case cpio.S_IFLNK:
		mode |= fs.ModeSymlink
	}
	return mode.String()
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
	text, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return Manifest{}, fmt.Errorf("encode the manifest: %w", err)
	}
	if err := WriteFile(imagePath, archive); err != nil {
		return Manifest{}, err
	}
	if manifestPath == "" {
		return manifest, nil
	}
	return manifest, WriteFile(manifestPath, append(text, '\n'))
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
