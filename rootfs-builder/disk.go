package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"kata-runtime/rootfs-builder/disk"
	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/ocilayout"
	"kata-runtime/rootfs-builder/sbom"
	"kata-runtime/rootfs-builder/tree"
)

// buildDisk writes a disk image with the contents on top of the sources, and what was
// asked for beside it. The image appears by rename, the manifest last.
func buildDisk(ctx context.Context, o options, contents *image.Contents, described sbom.Image) (manifest image.Manifest, err error) {
	if err := os.MkdirAll(filepath.Dir(o.output), 0o755); err != nil {
		return manifest, fmt.Errorf("write %s: %w", o.output, err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.output), ".rootfs-builder.*")
	if err != nil {
		return manifest, fmt.Errorf("make a directory for the image to be: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, err := tree.New(dir)
	if err != nil {
		return manifest, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	sources, err := o.addSources(files)
	if err != nil {
		return manifest, err
	}
	if err := o.addExtras(files, contents); err != nil {
		return manifest, err
	}
	if err := o.step("writing the " + o.kind + " file system and its hashes"); err != nil {
		return manifest, err
	}
	written := filepath.Join(dir, "image")
	hashes, err := disk.Write(ctx, written, o.kind, files, described.Created)
	if err != nil {
		return manifest, err
	}
	manifest, err = diskManifest(written, files, &described)
	if err != nil {
		return manifest, err
	}
	manifest.Image, manifest.KernelRelease = filepath.Base(o.output), o.release
	manifest.FileSystem, manifest.Verity, manifest.Sources = o.kind, &hashes, sources
	if err := errors.Join(os.Chmod(written, 0o644), os.Rename(written, o.output)); err != nil {
		return manifest, fmt.Errorf("write %s: %w", o.output, err)
	}
	if err := o.writeSBOM(described, manifest); err != nil {
		return manifest, err
	}
	return manifest, manifest.Write(cmp.Or(o.manifest, manifestBeside(o.output)))
}

// manifestBeside is where the runtime looks for a disk image's manifest.
func manifestBeside(name string) string {
	return strings.TrimSuffix(name, filepath.Ext(name)) + ".manifest.json"
}

// addSources adds what the image starts from.
func (o *options) addSources(files *tree.Tree) ([]image.Source, error) {
	var sources []image.Source
	if o.oci != "" {
		source, err := ocilayout.Open(o.oci, o.reference, o.architecture)
		if err != nil {
			return nil, err
		}
		err = source.Layers(func(name string, archive io.Reader) error {
			if err := o.step("adding " + name); err != nil {
				return err
			}
			return files.Add(archive, tree.Layer{Name: name, Whiteouts: true})
		})
		if err != nil {
			return nil, err
		}
		sources = append(sources, image.Source{Kind: "oci", Digest: source.Digest.String()})
	}
	for _, name := range o.tars {
		if err := o.step("adding " + name); err != nil {
			return nil, err
		}
		digest, err := addTar(files, name)
		if err != nil {
			return nil, err
		}
		sources = append(sources, image.Source{Kind: "tar", Digest: digest})
	}
	return sources, nil
}

func addTar(files *tree.Tree, name string) (string, error) {
	archive, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("read -tar: %w", err)
	}
	defer archive.Close()
	hash := sha256.New()
	read := io.TeeReader(archive, hash)
	if err := files.Add(read, tree.Layer{Name: name}); err != nil {
		return "", err
	}
	// What follows the archive is in its digest too.
	if _, err := io.Copy(io.Discard, read); err != nil {
		return "", fmt.Errorf("read -tar: %w", err)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}

// addExtras adds the builder's own files, and those of -add and -ca.
func (o *options) addExtras(files *tree.Tree, contents *image.Contents) error {
	for _, extra := range o.files {
		source, name, mode, err := parseExtra(extra)
		if err != nil {
			return err
		}
		contents.HostFile(name, mode, source)
	}
	if err := addCertificates(files, contents, o.certificates); err != nil {
		return err
	}
	archive, writer := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := contents.Tar(writer)
		writer.CloseWithError(err)
		written <- err
	}()
	err := files.Add(archive, tree.Layer{Name: "the builder's files"})
	archive.Close()
	// Whoever writes finds no reader after an error of his.
	return cmp.Or(err, <-written)
}

// parseExtra takes FILE:PATH[:MODE] apart.
func parseExtra(text string) (source, name string, mode uint64, err error) {
	parts := strings.Split(text, ":")
	mode = 0o644
	if len(parts) == 3 {
		if mode, err = strconv.ParseUint(parts[2], 8, 9); err != nil {
			return "", "", 0, fmt.Errorf("-add %s: mode %q is not 0-0777, in octal", text, parts[2])
		}
	}
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !path.IsAbs(parts[1]) {
		return "", "", 0, fmt.Errorf("-add %s is not FILE:PATH[:MODE] with an absolute PATH", text)
	}
	return parts[0], parts[1], mode, nil
}

// certificateBundle is where Debian's programs look for those that they trust, and most
// others' too.
const certificateBundle = "/etc/ssl/certs/ca-certificates.crt"

// addCertificates adds certificates to those that the sources bring.
func addCertificates(files *tree.Tree, contents *image.Contents, names []string) error {
	if len(names) == 0 {
		return nil
	}
	bundle, err := files.Read(certificateBundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read -ca: %w", err)
		}
		if block, _ := pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return fmt.Errorf("-ca %s holds no certificate in PEM", name)
		}
		if len(bundle) > 0 && bundle[len(bundle)-1] != '\n' {
			bundle = append(bundle, '\n')
		}
		bundle = append(bundle, text...)
	}
	contents.File(certificateBundle, 0o644, bundle)
	return nil
}

// diskManifest is the manifest of a written image, without what only the caller knows,
// and tells the bill of materials of its files.
func diskManifest(written string, files *tree.Tree, described *sbom.Image) (manifest image.Manifest, err error) {
	file, err := os.Open(written)
	if err != nil {
		return manifest, fmt.Errorf("read the image: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if manifest.Size, err = io.Copy(hash, file); err != nil {
		return manifest, fmt.Errorf("read the image: %w", err)
	}
	manifest.SHA256 = hex.EncodeToString(hash.Sum(nil))
	err = files.Walk(func(name string, file *tree.Node, _ string) error {
		entry := image.Entry{Path: name, Mode: file.Mode.String(), Size: file.Size}
		switch {
		case file.Mode.IsRegular():
			entry.SHA256 = hex.EncodeToString(file.SHA256[:])
			described.Files = append(described.Files, sbom.File{Path: name, Content: files.Open(file)})
		case file.Mode&fs.ModeSymlink != 0:
			entry.Size = int64(len(file.Target))
		}
		manifest.Entries = append(manifest.Entries, entry)
		return nil
	})
	return manifest, err
}
