package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImage reads an image back: each digest is that of its blob, the layer has the
// programs and images where the installer looks for them, and nothing else.
func TestImage(t *testing.T) {
	from := t.TempDir()
	for name, text := range map[string]string{
		"bin/kata-runtime": "program", "bin/kata-device": "device", "bin/kata-agent": "agent", "share/kata-containers/vmlinux": "kernel",
		"share/kata-containers/debian/initrd.img": "image",
	} {
		name = filepath.Join(from, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/", filepath.Join(from, "share/kata-containers/debian/modules")); err != nil {
		t.Fatal(err)
	}
	var images [2][]byte
	for i := range images {
		output := filepath.Join(t.TempDir(), "image.tar")
		digest, err := write(from, "localhost:5000/x:1", "1", output)
		if err != nil {
			t.Fatal(err)
		}
		if images[i], err = os.ReadFile(output); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(filepath.Dir(output))
		if err != nil || len(left) != 1 {
			t.Errorf("left: %v, %v", left, err)
		}
		if !strings.HasPrefix(digest, "sha256:") {
			t.Error(digest)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same input gives different images")
	}

	files := read(t, bytes.NewReader(images[0]))
	blob := func(d descriptor) []byte {
		data, ok := files[blobPath(d.Digest)]
		sum := sha256.Sum256(data)
		if !ok || "sha256:"+hex.EncodeToString(sum[:]) != d.Digest || int64(len(data)) != d.Size {
			t.Fatalf("%+v is not its blob of %d bytes", d, len(data))
		}
		return data
	}
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config struct {
		Config struct{ Entrypoint []string }
		Rootfs struct {
			Diffs []string `json:"diff_ids"`
		}
	}
	decode(t, files["index.json"], &index)
	decode(t, blob(index.Manifests[0]), &manifest)
	decode(t, blob(manifest.Config), &config)
	unpacked, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(plain); config.Rootfs.Diffs[0] != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("diff_ids are %v", config.Rootfs.Diffs)
	}
	layer := read(t, bytes.NewReader(plain))
	want := map[string]string{
		"usr/local/bin/kata-runtime": "program", "usr/local/bin/kata-device": "device", "usr/local/share/kata-containers/vmlinux": "kernel",
		"usr/local/share/kata-containers/debian/initrd.img": "image",
	}
	for name, data := range layer {
		if !strings.HasSuffix(name, "/") && want[name] != string(data) {
			t.Errorf("%s is in the layer: %q", name, data)
		}
	}
	for name := range want {
		if _, ok := layer[name]; !ok {
			t.Errorf("%s is not in the layer", name)
		}
	}
	if !slices.Equal(config.Config.Entrypoint, []string{"/usr/local/bin/kata-runtime"}) {
		t.Errorf("it starts %v", config.Config.Entrypoint)
	}
}

func read(t *testing.T, from io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	archive := tar.NewReader(from)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "x", ":1", "x:", "localhost:5000/x"} {
		if _, err := write(t.TempDir(), name, "1", filepath.Join(t.TempDir(), "o")); err == nil || !strings.Contains(err.Error(), "with a tag") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
