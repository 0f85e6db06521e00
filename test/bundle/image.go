package bundle

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
)

// Image writes an archive of an OCI image whose only layer is the given tar
// file and whose containers run the command by default. A manager that imports
// it knows it by name.
func Image(archive, name, layer string, command ...string) error {
	return ImageFor(runtime.GOARCH, archive, name, layer, command...)
}

// ImageFor is Image for an architecture.
func ImageFor(architecture, archive, name, layer string, command ...string) (err error) {
	file, err := os.Create(archive)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := &imageWriter{tar: tar.NewWriter(file)}
	type object = map[string]any
	files, err := w.layer(layer)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	config := w.object("config.v1+json", object{
		"architecture": architecture, "os": "linux", "config": object{"Env": []string{"PATH=/bin"}, "Cmd": command},
		"rootfs": object{"type": "layers", "diff_ids": []string{files.Digest}},
	})
	manifest := w.object("manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": mediaType + "manifest.v1+json", "config": config, "layers": []descriptor{files},
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": name}
	w.json("oci-layout", object{"imageLayoutVersion": "1.0.0"})
	w.json("index.json", object{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err := errors.Join(w.failure, w.tar.Close()); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

const mediaType = "application/vnd.oci.image."

// descriptor names content of an image.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// imageWriter writes the parts of an image until one fails.
type imageWriter struct {
	tar     *tar.Writer
	failure error
}

func (w *imageWriter) file(name string, size int64, content func(io.Writer) error) {
	if w.failure == nil {
		w.failure = w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
	}
	if w.failure == nil {
		w.failure = content(w.tar)
	}
}

// layer copies the file of a layer, whose sum is to be known first.
func (w *imageWriter) layer(name string) (descriptor, error) {
	source, err := os.Open(name)
	if err != nil {
		return descriptor{}, err
	}
	defer source.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, source)
	if err != nil {
		return descriptor{}, err
	}
	if _, err := source.Seek(0, io.SeekStart); err != nil {
		return descriptor{}, err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	w.file(path.Join("blobs", "sha256", sum), size, func(to io.Writer) error {
		_, err := io.Copy(to, source)
		return err
	})
	return descriptor{MediaType: mediaType + "layer.v1.tar", Digest: "sha256:" + sum, Size: size}, w.failure
}

// object writes a value as content of the image.
func (w *imageWriter) object(kind string, value any) descriptor {
	data := w.encode(value)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	w.data(path.Join("blobs", "sha256", sum), data)
	return descriptor{MediaType: mediaType + kind, Digest: "sha256:" + sum, Size: int64(len(data))}
}

// json writes a value as a file of the archive.
func (w *imageWriter) json(name string, value any) { w.data(name, w.encode(value)) }

func (w *imageWriter) data(name string, data []byte) {
	w.file(name, int64(len(data)), func(to io.Writer) error {
		_, err := to.Write(data)
		return err
	})
}

func (w *imageWriter) encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil && w.failure == nil {
		w.failure = err
	}
	return data
}
