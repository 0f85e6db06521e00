package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"

	"github.com/u-root/u-root/pkg/cpio"
)

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
	// FileSystem is a disk image's, and Verity what opens it. An initrd has none.
	FileSystem string  `json:"file_system,omitempty"`
	Verity     *Verity `json:"verity,omitempty"`
	// Sources are what is below the files of the builder's own, the lowest first.
	Sources []Source `json:"sources,omitempty"`
	// Entries are sorted by path.
	Entries []Entry `json:"entries,omitempty"`
}

// Verity is what opens a disk image as a dm-verity device: by the kernel's table, or by
// veritysetup(8). Sizes and offsets are in bytes.
type Verity struct {
	Hash     string `json:"hash"`
	RootHash string `json:"root_hash"`
	Salt     string `json:"salt"`
	UUID     string `json:"uuid"`
	// BlockSize is that of the data and of the hashes.
	BlockSize  int64 `json:"block_size"`
	DataBlocks int64 `json:"data_blocks"`
	// HashOffset is where the superblock of dm-verity begins. The tree begins in the
	// block after it.
	HashOffset int64 `json:"hash_offset"`
}

// Source is an archive or an OCI image with files of an image.
type Source struct {
	// Kind is "tar" or "oci".
	Kind string `json:"kind"`
	// Digest is that of the archive, or of the image's manifest.
	Digest string `json:"digest"`
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

// mode renders the bits that an initrd can have.
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

// Write writes the manifest by rename.
func (m Manifest) Write(path string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	return WriteFile(path, append(text, '\n'))
}
