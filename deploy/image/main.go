// Command image writes the installer's container image: the programs with their
// kernels and images, and nothing else. It needs neither docker nor a registry:
// the image is an OCI archive, which `ctr images import`, `podman load` and
// `skopeo copy oci-archive:` read. The same input gives the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	from := flag.String("from", ".", "`DIRECTORY` with bin and share")
	name := flag.String("name", "", "the image's `NAME`, with a tag")
	version := flag.String("version", "", "the product's `VERSION`")
	output := flag.String("o", "", "`FILE` to write")
	flag.Parse()
	digest, err := write(*from, *name, *version, *output)
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Printf("%s  %s (%s)\n", digest, *output, *name)
}

// prefix is where the tree is in the image, and by default on the node.
const prefix = "usr/local"

// entry is a file or, without a source, a directory of the layer.
type entry struct {
	name, source string
	mode         int64
}

// contents lists the layer, each directory before what is in it.
func contents(from string) ([]entry, error) {
	entries := []entry{{name: prefix + "/bin/kata-runtime", source: filepath.Join(from, "bin", "kata-runtime"), mode: 0o755}}
	for _, name := range []string{"kata-device", "containerd-shim-kata-v2"} {
		program := filepath.Join(from, "bin", name)
		if _, err := os.Stat(program); err == nil {
			entries = append(entries, entry{name: prefix + "/bin/" + name, source: program, mode: 0o755})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for %s: %w", name, err)
		}
	}
	const share = "share/kata-containers"
	err := fs.WalkDir(os.DirFS(from), share, func(name string, found fs.DirEntry, err error) error {
		if err == nil && found.Type().IsRegular() {
			entries = append(entries, entry{name: path.Join(prefix, name), source: filepath.Join(from, name), mode: 0o644})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the kernels and images (make kernel image): %w", err)
	}
	dirs := map[string]bool{}
	for _, e := range entries {
		for dir := path.Dir(e.name); dir != "."; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	for dir := range dirs {
		entries = append(entries, entry{name: dir + "/", mode: 0o755})
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return entries, nil
}

// descriptor is that of the OCI image specification, as far as it is used.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

const mediaType = "application/vnd.oci.image."

// write writes the archive by a temporary file and returns the manifest's digest.
func write(from, name, version, output string) (digest string, err error) {
	if repository, tag, found := cutTag(name); !found || repository == "" || tag == "" || version == "" || output == "" {
		return "", errors.New("-name with a tag, -version and -o are needed")
	}
	entries, err := contents(from)
	if err != nil {
		return "", err
	}
	layer, err := os.CreateTemp(filepath.Dir(output), ".layer-*")
	if err != nil {
		return "", fmt.Errorf("write the layer: %w", err)
	}
	defer func() { err = errors.Join(err, layer.Close(), os.Remove(layer.Name())) }()
	layerDescriptor, diffID, err := writeLayer(layer, entries)
	if err != nil {
		return "", err
	}
	archive, err := os.CreateTemp(filepath.Dir(output), ".image-*")
	if err != nil {
		return "", fmt.Errorf("write the image: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, archive.Close(), os.Remove(archive.Name()))
		}
	}()
	if digest, err = writeArchive(archive, layer, layerDescriptor, diffID, name, version); err != nil {
		return "", err
	}
	if err := errors.Join(archive.Chmod(0o644), archive.Close(), os.Rename(archive.Name(), output)); err != nil {
		return "", fmt.Errorf("write the image: %w", err)
	}
	return digest, nil
}

// cutTag splits an image's name; a colon before a slash is that of a port.
func cutTag(name string) (repository, tag string, found bool) {
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.Contains(name[i:], "/") {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

// counter counts and hashes what goes through it.
type counter struct {
	to   io.Writer
	sum  hash.Hash
	size int64
}

func newCounter(to io.Writer) *counter { return &counter{to: to, sum: sha256.New()} }

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.sum.Write(p[:n])
	c.size += int64(n)
	return n, err
}

func (c *counter) digest() string { return "sha256:" + hex.EncodeToString(c.sum.Sum(nil)) }

func writeLayer(to io.Writer, entries []entry) (layer descriptor, diffID string, err error) {
	compressed := newCounter(to)
	packer := gzip.NewWriter(compressed)
	plain := newCounter(packer)
	archive := tar.NewWriter(plain)
	for _, e := range entries {
		if err := add(archive, e); err != nil {
			return descriptor{}, "", fmt.Errorf("write %s into the layer: %w", e.name, err)
		}
	}
	if err := errors.Join(archive.Close(), packer.Close()); err != nil {
		return descriptor{}, "", fmt.Errorf("write the layer: %w", err)
	}
	return descriptor{MediaType: mediaType + "layer.v1.tar+gzip", Digest: compressed.digest(), Size: compressed.size}, plain.digest(), nil
}

func add(archive *tar.Writer, e entry) error {
	header := &tar.Header{Name: e.name, Mode: e.mode, Format: tar.FormatPAX, Typeflag: tar.TypeDir}
	if e.source == "" {
		return archive.WriteHeader(header)
	}
	source, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, source)
	return err
}

// writeArchive writes an OCI layout as a tar file.
func writeArchive(to io.Writer, layer *os.File, layerDescriptor descriptor, diffID, name, version string) (digest string, err error) {
	archive := tar.NewWriter(to)
	put := func(name string, size int64, content io.Reader) error {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
			return fmt.Errorf("write %s into the image: %w", name, err)
		}
		if _, err := io.Copy(archive, content); err != nil {
			return fmt.Errorf("write %s into the image: %w", name, err)
		}
		return nil
	}
	blob := func(kind string, value any) (descriptor, error) {
		data, err := json.Marshal(value)
		if err != nil {
			return descriptor{}, fmt.Errorf("encode the image's %s: %w", kind, err)
		}
		sum := sha256.Sum256(data)
		d := descriptor{MediaType: mediaType + kind, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(data))}
		return d, put(blobPath(d.Digest), d.Size, bytes.NewReader(data))
	}
	if err := put("oci-layout", int64(len(layout)), strings.NewReader(layout)); err != nil {
		return "", err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read the layer again: %w", err)
	}
	if err := put(blobPath(layerDescriptor.Digest), layerDescriptor.Size, layer); err != nil {
		return "", err
	}
	labels := map[string]string{"org.opencontainers.image.title": "kata-runtime", "org.opencontainers.image.version": version}
	config, err := blob("config.v1+json", map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{
			"Entrypoint": []string{"/" + prefix + "/bin/kata-runtime"}, "Cmd": []string{"node", "--help"},
			"Env": []string{"PATH=/" + prefix + "/bin"}, "WorkingDir": "/", "Labels": labels,
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{diffID}},
		"history": []map[string]string{{"created_by": "make deploy-image"}},
	})
	if err != nil {
		return "", err
	}
	manifest, err := blob("manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": mediaType + "manifest.v1+json",
		"config": config, "layers": []descriptor{layerDescriptor}, "annotations": labels,
	})
	if err != nil {
		return "", err
	}
	// containerd takes the whole name from the first annotation, others from the second.
	manifest.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
	manifest.Platform = &platform{Architecture: "amd64", OS: "linux"}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaType + "index.v1+json", "manifests": []descriptor{manifest},
	})
	if err != nil {
		return "", fmt.Errorf("encode the image's index: %w", err)
	}
	if err := put("index.json", int64(len(index)), bytes.NewReader(index)); err != nil {
		return "", err
	}
	if err := archive.Close(); err != nil {
		return "", fmt.Errorf("write the image: %w", err)
	}
	return manifest.Digest, nil
}

const layout = `{"imageLayoutVersion":"1.0.0"}`

func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
