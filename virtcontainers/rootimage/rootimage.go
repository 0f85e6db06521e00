// Package rootimage opens the disk images that a guest boots from: a read-only file
// system with the hash tree of dm-verity behind it, and a manifest beside it, as
// rootfs-builder makes them.
//
// The manifest has the root of the tree. The guest's kernel gets it on its command
// line and compares what it reads, block by block, each time that it comes from the
// disk; a block that is not what was built ends the guest. So a start does not read the
// image as a whole: Open only finds out whether image and manifest belong together, and
// Verify, for those who have the time, compares all of it.
//
// Of an initrd, which a guest's kernel takes as it is, VerifyInitrd compares all.
package rootimage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	// maxManifest bounds what is read of a manifest, which lists every file of an image.
	maxManifest = 64 << 20
	// blockSize is that of data and hashes: nothing else is built, and a kernel takes no
	// larger ones than its pages.
	blockSize = 4096
	// sectorSize is the device mapper's unit.
	sectorSize = 512
	// maxSalt is dm-verity's.
	maxSalt = 256
	// device is the image's name in the guest: its only disk at boot.
	device = "/dev/vda"
)

// manifest is what is used of an image's.
type manifest struct {
	SHA256     string `json:"sha256"`
	Size       int64  `json:"size"`
	FileSystem string `json:"file_system"`
	Verity     *struct {
		Hash       string `json:"hash"`
		RootHash   string `json:"root_hash"`
		Salt       string `json:"salt"`
		BlockSize  int64  `json:"block_size"`
		DataBlocks int64  `json:"data_blocks"`
		HashOffset int64  `json:"hash_offset"`
	} `json:"verity"`
}

// Image is an open image.
type Image struct {
	file     *os.File
	manifest manifest
	salt     []byte
}

// ErrMismatch is wrapped by the errors about an image that is not the manifest's.
var ErrMismatch = errors.New("the image is not the one that its manifest describes")

// ManifestPath is where an image's manifest is: guest.manifest.json for guest.img.
func ManifestPath(image string) string {
	return strings.TrimSuffix(image, filepath.Ext(image)) + ".manifest.json"
}

// Open opens an image for reading, and compares its size and the top of its hash tree
// with the manifest. The caller closes it.
func Open(path string) (_ *Image, err error) {
	m, err := readManifest(ManifestPath(path))
	if err != nil {
		return nil, fmt.Errorf("guest image %s: %w", path, err)
	}
	salt, err := m.check()
	if err != nil {
		return nil, fmt.Errorf("guest image %s: manifest %s: %w", path, ManifestPath(path), err)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("guest image: %w", err)
	}
	image := &Image{file: file, manifest: m, salt: salt}
	if err := image.checkTop(); err != nil {
		return nil, errors.Join(fmt.Errorf("guest image %s: %w", path, err), file.Close())
	}
	return image, nil
}

// readManifest reads an image's. The error wraps fs.ErrNotExist where there is none.
func readManifest(path string) (m manifest, err error) {
	file, err := os.Open(path)
	if err != nil {
		return m, fmt.Errorf("read its manifest, which rootfs-builder writes beside it: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err == nil && len(text) > maxManifest {
		err = fmt.Errorf("it has more than %d bytes", maxManifest)
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return m, fmt.Errorf("manifest %s: %w", path, err)
	}
	return m, nil
}

// check makes sure that what goes onto a command line is nothing else than it says.
func (m *manifest) check() (salt []byte, err error) {
	v := m.Verity
	switch {
	case v == nil:
		return nil, errors.New("it describes no disk image with dm-verity (rootfs-builder -type erofs or ext4)")
	case m.FileSystem != "erofs" && m.FileSystem != "ext4":
		return nil, fmt.Errorf("its file system is %q, not erofs or ext4", m.FileSystem)
	case v.Hash != "sha256" || v.BlockSize != blockSize:
		return nil, fmt.Errorf("its hashes are %q of blocks of %d bytes, not sha256 of %d", v.Hash, v.BlockSize, blockSize)
	case v.DataBlocks < 2 || v.DataBlocks > m.Size/blockSize || v.HashOffset%blockSize != 0 ||
		v.HashOffset < v.DataBlocks*blockSize || v.HashOffset > m.Size-2*blockSize:
		return nil, fmt.Errorf("%d blocks and a hash tree at %d do not fit an image of %d bytes", v.DataBlocks, v.HashOffset, m.Size)
	}
	if root, err := hex.DecodeString(v.RootHash); err != nil || len(root) != sha256.Size {
		return nil, fmt.Errorf("its root hash is %q, not %d bytes in hexadecimal", v.RootHash, sha256.Size)
	}
	if salt, err = hex.DecodeString(v.Salt); err != nil || len(salt) == 0 || len(salt) > maxSalt {
		return nil, fmt.Errorf("its salt is %q, not 1 to %d bytes in hexadecimal", v.Salt, maxSalt)
	}
	return salt, nil
}

// checkTop compares the image's size, and the first block of the tree, whose hash is
// the root hash.
func (i *Image) checkTop() error {
	info, err := i.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no regular file")
	}
	if info.Size() != i.manifest.Size {
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrMismatch, info.Size(), i.manifest.Size)
	}
	top := make([]byte, blockSize)
	if _, err := i.file.ReadAt(top, i.manifest.Verity.HashOffset+blockSize); err != nil {
		return fmt.Errorf("read its hash tree: %w", err)
	}
	sum := sha256.Sum256(append(i.salt, top...))
	if found := hex.EncodeToString(sum[:]); found != i.manifest.Verity.RootHash {
		return fmt.Errorf("%w: the root hash of its tree is %s, not %s", ErrMismatch, found, i.manifest.Verity.RootHash)
	}
	return nil
}

// Verify reads the whole image and compares its digest.
func (i *Image) Verify() error {
	if err := i.manifest.compare(i.file); err != nil {
		return fmt.Errorf("guest image %s: %w", i.file.Name(), err)
	}
	return nil
}

// compare reads a whole file and compares its size and digest.
func (m *manifest) compare(file *os.File) error {
	info, err := file.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is no regular file")
	case info.Size() != m.Size:
		return fmt.Errorf("%w: it has %d bytes, not %d", ErrMismatch, info.Size(), m.Size)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(file, 0, m.Size)); err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	if found := hex.EncodeToString(hash.Sum(nil)); found != m.SHA256 {
		return fmt.Errorf("%w: its digest is %s, not %s", ErrMismatch, found, m.SHA256)
	}
	return nil
}

// File is the open image, until Close.
func (i *Image) File() *os.File { return i.file }

// FileSystem is the image's.
func (i *Image) FileSystem() string { return i.manifest.FileSystem }

// RootHash is that of the hash tree, in hexadecimal.
func (i *Image) RootHash() string { return i.manifest.Verity.RootHash }

// KernelParams let a kernel with CONFIG_DM_INIT make the image its root file system,
// where it is the first disk. A block that is not what its hash says is a panic: it is
// never handed to a program.
func (i *Image) KernelParams() []string {
	v := i.manifest.Verity
	return []string{
		fmt.Sprintf(`dm-mod.create="guest,,0,ro,0 %d verity 1 %s %s %d %d %d %d %s %s %s 1 panic_on_corruption"`,
			v.DataBlocks*(blockSize/sectorSize), device, device, blockSize, blockSize,
			v.DataBlocks, v.HashOffset/blockSize+1, v.Hash, v.RootHash, v.Salt),
		"root=/dev/dm-0", "rootfstype=" + i.manifest.FileSystem, "ro", "init=/init",
	}
}

// Close closes the image's file.
func (i *Image) Close() error { return i.file.Close() }
