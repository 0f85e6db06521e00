package ocilayout_test

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"kata-runtime/rootfs-builder/ocilayout"
)

// layout is an OCI image layout in the making.
type layout struct {
	t   *testing.T
	dir string
}

func newLayout(t *testing.T) layout {
	t.Helper()
	l := layout{t, t.TempDir()}
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l layout) blob(mediaType string, content []byte) v1.Descriptor {
	l.t.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	if err := os.WriteFile(l.path(d), content, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return d
}

func (l layout) path(d v1.Descriptor) string {
	return filepath.Join(l.dir, "blobs", "sha256", d.Digest.Encoded())
}

func (l layout) document(mediaType string, document any) v1.Descriptor {
	l.t.Helper()
	text, err := json.Marshal(document)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, text)
}

// image adds one with these layers.
func (l layout) image(layers ...string) v1.Descriptor {
	l.t.Helper()
	var manifest v1.Manifest
	for _, layer := range layers {
		manifest.Layers = append(manifest.Layers, l.blob(v1.MediaTypeImageLayer, []byte(layer)))
	}
	return l.document(v1.MediaTypeImageManifest, manifest)
}

func (l layout) index(manifests ...v1.Descriptor) {
	l.t.Helper()
	text, err := json.Marshal(v1.Index{Manifests: manifests})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "index.json"), text, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func read(image *ocilayout.Image) ([]string, error) {
	var layers []string
	err := image.Layers(func(name string, archive io.Reader) error {
		half := make([]byte, 1) // an archive's end is not always read
		_, err := io.ReadFull(archive, half)
		layers = append(layers, name[:len("layer 1 of 2")]+" "+string(half))
		return err
	})
	return layers, err
}

func named(d v1.Descriptor, name, architecture string) v1.Descriptor {
	d.Annotations = map[string]string{v1.AnnotationRefName: name}
	if architecture != "" {
		d.Platform = &v1.Platform{OS: "linux", Architecture: architecture}
	}
	return d
}

func TestOpenChooses(t *testing.T) {
	l := newLayout(t)
	amd, arm, other := l.image("a1", "a2"), l.image("b1", "b2"), l.image("c1", "c2")
	nested := l.document(v1.MediaTypeImageIndex, v1.Index{Manifests: []v1.Descriptor{named(amd, "", "amd64"), named(arm, "", "arm64")}})
	l.index(named(nested, "both", ""), named(other, "other", ""))
	for _, test := range []struct {
		reference, architecture string
		digest                  digest.Digest
		want, err               string
	}{
		{"both", "amd64", amd.Digest, "layer 1 of 2 a,layer 2 of 2 a", ""},
		{"both", "arm64", arm.Digest, "layer 1 of 2 b,layer 2 of 2 b", ""},
		{"other", "amd64", other.Digest, "layer 1 of 2 c,layer 2 of 2 c", ""},
		{"both", "riscv64", "", "", "no image for linux/riscv64"},
		{"none", "amd64", "", "", "no image for linux/amd64"},
		{"", "amd64", "", "", `"both", "other"`},
	} {
		image, err := ocilayout.Open(l.dir, test.reference, test.architecture)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s for %s: %v, want %s", test.reference, test.architecture, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s for %s: %v", test.reference, test.architecture, err)
			continue
		}
		layers, err := read(image)
		if diff := cmp.Diff(test.want, strings.Join(layers, ",")); diff != "" || err != nil || image.Digest != test.digest {
			t.Errorf("%s for %s: %s, %v, %s", test.reference, test.architecture, diff, err, image.Digest)
		}
	}
}

func TestChangedContentIsRefused(t *testing.T) {
	l := newLayout(t)
	manifest := l.image("one layer", "another layer")
	l.index(manifest)
	layer := v1.Descriptor{Digest: digest.FromString("another layer")}
	if err := os.WriteFile(l.path(layer), []byte("another LAYER"), 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := ocilayout.Open(l.dir, "", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(image); err == nil || !strings.Contains(err.Error(), "layer 2 of 2") || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a changed layer: %v", err)
	}
	if err := os.WriteFile(l.path(manifest), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ocilayout.Open(l.dir, "", "amd64"); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a changed manifest: %v", err)
	}
	l.index(v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: "sha256:../../../etc/passwd"})
	if _, err := ocilayout.Open(l.dir, "", "amd64"); err == nil || !strings.Contains(err.Error(), "invalid") {
		t.Errorf("a digest that is a path: %v", err)
	}
}
