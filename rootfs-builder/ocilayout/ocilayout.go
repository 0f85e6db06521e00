// Package ocilayout reads an image from a directory in the OCI image layout, as skopeo
// copy, podman save --format oci-dir and docker buildx write it. What is read is
// compared with its digest.
package ocilayout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxDocument bounds indexes and manifests, as registries do.
	maxDocument = 4 << 20
	// maxNested bounds indexes in indexes.
	maxNested = 4
	// mediaTypeDockerManifest and those below are what Docker calls its own, which are
	// the same otherwise.
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Image is one of a layout.
type Image struct {
	// Digest is its manifest's.
	Digest digest.Digest
	dir    string
	layers []v1.Descriptor
}

// Open finds the image for an architecture, in Go's name of it, in a layout. reference
// is the one of several that has this name ("org.opencontainers.image.ref.name"); empty:
// the only one.
func Open(dir, reference, architecture string) (*Image, error) {
	image, err := open(dir, reference, architecture)
	if err != nil {
		return nil, fmt.Errorf("read the OCI image layout %s: %w", dir, err)
	}
	return image, nil
}

func open(dir, reference, architecture string) (*Image, error) {
	text, err := readBounded(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index v1.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", v1.ImageIndexFile, err)
	}
	if reference != "" {
		var named []v1.Descriptor
		for _, d := range index.Manifests {
			if d.Annotations[v1.AnnotationRefName] == reference {
				named = append(named, d)
			}
		}
		index.Manifests = named
	}
	for range maxNested {
		descriptor, err := choose(index.Manifests, architecture)
		if err != nil {
			return nil, err
		}
		text, err := readBlob(dir, descriptor)
		if err != nil {
			return nil, err
		}
		var document struct {
			specs.Versioned
			Manifests []v1.Descriptor `json:"manifests"`
			Layers    []v1.Descriptor `json:"layers"`
		}
		if err := json.Unmarshal(text, &document); err != nil {
			return nil, fmt.Errorf("blob %s: %w", descriptor.Digest, err)
		}
		switch descriptor.MediaType {
		case v1.MediaTypeImageIndex, mediaTypeDockerIndex:
			index.Manifests = document.Manifests
		case v1.MediaTypeImageManifest, mediaTypeDockerManifest:
			return &Image{Digest: descriptor.Digest, dir: dir, layers: document.Layers}, nil
		default:
			return nil, fmt.Errorf("blob %s: is no image but %q", descriptor.Digest, descriptor.MediaType)
		}
	}
	return nil, fmt.Errorf("more than %d indexes in each other", maxNested)
}

// choose takes the only image for the architecture, or for none in particular.
func choose(from []v1.Descriptor, architecture string) (v1.Descriptor, error) {
	var fitting []v1.Descriptor
	for _, d := range from {
		if d.Platform == nil || d.Platform.OS == "linux" && d.Platform.Architecture == architecture {
			fitting = append(fitting, d)
		}
	}
	switch len(fitting) {
	case 0:
		return v1.Descriptor{}, fmt.Errorf("no image for linux/%s", architecture)
	case 1:
		return fitting[0], nil
	default:
		var names []string
		for _, d := range fitting {
			names = append(names, fmt.Sprintf("%q", d.Annotations[v1.AnnotationRefName]))
		}
		return v1.Descriptor{}, fmt.Errorf("several images, name one of %s", strings.Join(names, ", "))
	}
}

// Layers calls add with each layer's tar archive as it is, compressed or not, the lowest first. An archive that is
// not what its digest says is an error of Layers, once it has been read.
func (i *Image) Layers(add func(name string, archive io.Reader) error) error {
	for n, layer := range i.layers {
		name := fmt.Sprintf("layer %d of %d (%s)", n+1, len(i.layers), layer.Digest)
		if err := i.layer(layer, name, add); err != nil {
			return fmt.Errorf("OCI image layout %s: %w", i.dir, err)
		}
	}
	return nil
}

func (i *Image) layer(layer v1.Descriptor, name string, add func(string, io.Reader) error) error {
	path, err := blobPath(i.dir, layer)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	verifier := layer.Digest.Verifier()
	blob := io.TeeReader(file, verifier)
	if err := add(name, blob); err != nil {
		return err
	}
	// What follows the archive counts too.
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("%s: %w", name, errDigest)
	}
	return nil
}

// errDigest is content that is not what its digest says.
var errDigest = errors.New("the content does not have this digest")

func readBlob(dir string, descriptor v1.Descriptor) ([]byte, error) {
	path, err := blobPath(dir, descriptor)
	if err != nil {
		return nil, err
	}
	text, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	verifier := descriptor.Digest.Verifier()
	if _, err := io.Copy(verifier, bytes.NewReader(text)); err != nil || !verifier.Verified() {
		return nil, fmt.Errorf("blob %s: %w", descriptor.Digest, errDigest)
	}
	return text, nil
}

func blobPath(dir string, descriptor v1.Descriptor) (string, error) {
	if err := descriptor.Digest.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", descriptor.Digest, err)
	}
	return filepath.Join(dir, v1.ImageBlobsDir, descriptor.Digest.Algorithm().String(), descriptor.Digest.Encoded()), nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	if err == nil && len(text) > maxDocument {
		err = fmt.Errorf("%s has more than %d bytes", path, maxDocument)
	}
	return text, err
}
