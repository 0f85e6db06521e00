// Package disk writes disk images: a file system that is read-only or never written,
// followed by the tree of hashes by which dm-verity checks each block of it. The same
// files always give the same bytes. It takes no privileges, loop devices or mounts.
package disk

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
	"github.com/containerd/go-dmverity/pkg/verity"

	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/tree"
)

// File systems that an image can have.
const (
	EROFS = "erofs" // compressed
	Ext4  = "ext4"
)

const (
	// BlockSize is that of the file system and of the hashes: a page, so that a guest
	// reads and checks as little as it can at a time.
	BlockSize = 4096
	// HashAlgorithm is that of the tree.
	HashAlgorithm = "sha256"
	// minExt4 is the least that the ext4 writer plans for.
	minExt4 = 64 << 20
	// erofsUUID is any, but always the same.
	erofsUUID = "6b617461-0000-4000-8000-000000000000"
)

// Write makes an image with a tree's files in a new file. Every time in it is created.
func Write(ctx context.Context, path, fileSystem string, files *tree.Tree, created time.Time) (image.Verity, error) {
	var err error
	switch fileSystem {
	case EROFS:
		err = writeEROFS(ctx, path, files, created)
	case Ext4:
		err = writeExt4(path, files, created)
	default:
		err = fmt.Errorf("there is no writer for the file system %q", fileSystem)
	}
	if err != nil {
		return image.Verity{}, fmt.Errorf("write a file system (%s): %w", fileSystem, err)
	}
	hashes, err := addHashes(path)
	if err != nil {
		return image.Verity{}, fmt.Errorf("add the hashes of dm-verity: %w", err)
	}
	return hashes, nil
}

// writeEROFS lets mkfs.erofs(1) pack a directory with the files. It makes everything
// root's.
func writeEROFS(ctx context.Context, path string, files *tree.Tree, created time.Time) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".files.*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(dir)) }()
	if err := unpack(files, dir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mkfs.erofs", "--quiet", "-zlz4hc", "-x-1", "--all-root",
		"-T"+strconv.FormatInt(created.Unix(), 10), "-U"+erofsUUID, path, dir)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: install Debian's package erofs-utils", err)
	}
	if err != nil {
		return fmt.Errorf("mkfs.erofs: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// unpack writes the files into a directory. Modes come last: a directory may not be
// writable.
func unpack(files *tree.Tree, dir string) error {
	var directories []func() error
	err := files.Walk(func(name string, file *tree.Node, first string) error {
		target := filepath.Join(dir, name)
		switch {
		case first != "":
			return os.Link(filepath.Join(dir, first), target)
		case file.Mode.IsDir():
			directories = append(directories, func() error { return os.Chmod(target, file.Mode) })
			return os.Mkdir(target, 0o700)
		case file.Mode.IsRegular():
			return unpackFile(files, file, target)
		default:
			return os.Symlink(file.Target, target)
		}
	})
	if err != nil {
		return err
	}
	// Inner ones come last.
	for i := len(directories) - 1; i >= 0; i-- {
		if err := directories[i](); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o755)
}

func unpackFile(files *tree.Tree, file *tree.Node, target string) (err error) {
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, files.Open(file)); err != nil {
		return err
	}
	return out.Chmod(file.Mode)
}

// removeAll deletes a directory with others in it that may not be writable.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	return cmp.Or(err, os.RemoveAll(dir))
}

// writeExt4 hands the files as a tar archive to a writer of ext4, which takes no
// privileges to make them root's.
func writeExt4(path string, files *tree.Tree, created time.Time) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	archive, writer := io.Pipe()
	defer archive.Close()
	written := make(chan error, 1)
	go func() {
		err := Archive(writer, files, created)
		writer.CloseWithError(err)
		written <- err
	}()
	// Twice the contents are enough: each file is rounded up to a block.
	limit := max(minExt4, 2*files.Size())
	err = tar2ext4.ConvertTarToExt4(archive, file, tar2ext4.MaximumDiskSize(limit))
	archive.Close()
	// Whoever writes finds no reader after an error of his.
	return cmp.Or(err, <-written)
}

// Archive writes the tree's files as a tar archive, all of them root's.
func Archive(to io.Writer, files *tree.Tree, created time.Time) error {
	archive := tar.NewWriter(to)
	err := files.Walk(func(name string, file *tree.Node, first string) error {
		header := &tar.Header{
			Name: name[1:], Mode: int64(file.Mode.Perm()), ModTime: created, AccessTime: created, ChangeTime: created,
			Format: tar.FormatPAX,
		}
		if file.Mode&fs.ModeSticky != 0 {
			header.Mode |= 0o1000
		}
		switch {
		case first != "":
			header.Typeflag, header.Linkname = tar.TypeLink, first[1:]
		case file.Mode.IsDir():
			header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		case file.Mode.IsRegular():
			header.Typeflag, header.Size = tar.TypeReg, file.Size
		default:
			header.Typeflag, header.Linkname = tar.TypeSymlink, file.Target
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			return nil
		}
		_, err := io.Copy(archive, files.Open(file))
		return err
	})
	return errors.Join(err, archive.Close())
}

// addHashes appends superblock and tree of dm-verity to a file system. Salt and UUID are
// made from the data, so that they are the same each time.
func addHashes(path string) (image.Verity, error) {
	size, sum, err := pad(path)
	if err != nil {
		return image.Verity{}, err
	}
	params := verity.DefaultParams()
	params.HashName = HashAlgorithm
	params.DataBlockSize, params.HashBlockSize = BlockSize, BlockSize
	params.DataBlocks = uint64(size / BlockSize)
	params.HashAreaOffset = uint64(size)
	params.Salt, params.SaltSize = sum, uint16(len(sum))
	uuid := sha256.Sum256(sum)
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // version 8 of RFC 9562: as one likes
	copy(params.UUID[:], uuid[:])
	root, err := verity.Create(&params, path, path)
	if err != nil {
		return image.Verity{}, err
	}
	id := hex.EncodeToString(params.UUID[:])
	return image.Verity{
		Hash: HashAlgorithm, RootHash: hex.EncodeToString(root), Salt: hex.EncodeToString(sum),
		UUID:      id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:],
		BlockSize: BlockSize, DataBlocks: size / BlockSize, HashOffset: size,
	}, nil
}

// pad makes a file as long as whole blocks are, and returns its length and digest.
func pad(path string) (size int64, sum []byte, err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	hash := sha256.New()
	size, err = io.Copy(hash, file)
	if err != nil {
		return 0, nil, err
	}
	if rest := size % BlockSize; rest != 0 {
		size += BlockSize - rest
		err = file.Truncate(size)
	}
	return size, hash.Sum(nil), err
}
