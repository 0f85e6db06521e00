package rootimage_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/virtcontainers/rootimage"
)

const block = 4096

// write makes an image of three blocks, a superblock that nobody reads and a tree of
// one block, with a manifest that change may change.
func write(t *testing.T, change func(manifest, verity map[string]any)) string {
	t.Helper()
	var image []byte
	for i := range 4 {
		image = append(image, bytes.Repeat([]byte{byte(i)}, block)...)
	}
	salt := []byte("salt")
	var top []byte
	for i := range 3 {
		sum := sha256.Sum256(append(slices.Clone(salt), image[i*block:(i+1)*block]...))
		top = append(top, sum[:]...)
	}
	top = append(top, make([]byte, block-len(top))...)
	image = append(image, top...)
	root, sum := sha256.Sum256(append(slices.Clone(salt), top...)), sha256.Sum256(image)
	verity := map[string]any{
		"hash": "sha256", "root_hash": hex.EncodeToString(root[:]), "salt": hex.EncodeToString(salt),
		"block_size": block, "data_blocks": 3, "hash_offset": 3 * block,
	}
	manifest := map[string]any{
		"sha256": hex.EncodeToString(sum[:]), "size": len(image), "file_system": "erofs", "verity": verity, "entries": []any{},
	}
	if change != nil {
		change(manifest, verity)
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "guest.img")
	if err := errors.Join(os.WriteFile(path, image, 0o600), os.WriteFile(rootimage.ManifestPath(path), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpen(t *testing.T) {
	image, err := rootimage.Open(write(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Verify(); err != nil {
		t.Error(err)
	}
	want := []string{
		`dm-mod.create="guest,,0,ro,0 24 verity 1 /dev/vda /dev/vda 4096 4096 3 4 sha256 ` + image.RootHash() + ` 73616c74 1 panic_on_corruption"`,
		"root=/dev/dm-0", "rootfstype=erofs", "ro", "init=/init",
	}
	if got := image.KernelParams(); !slices.Equal(got, want) {
		t.Errorf("parameters %q, want %q", got, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	type change = func(manifest, verity map[string]any)
	for want, change := range map[string]change{
		"no disk image with dm-verity": func(m, _ map[string]any) { delete(m, "verity") },
		`file system is "xfs"`:         func(m, _ map[string]any) { m["file_system"] = "xfs" },
		`hashes are "md5"`:             func(_, v map[string]any) { v["hash"] = "md5" },
		"blocks of 512 bytes":          func(_, v map[string]any) { v["block_size"] = 512 },
		"1 blocks":                     func(_, v map[string]any) { v["data_blocks"] = 1 },
		"1152921504606846976 blocks":   func(_, v map[string]any) { v["data_blocks"] = 1 << 60 },
		"hash tree at 16384":           func(_, v map[string]any) { v["hash_offset"] = 4 * block },
		"hash tree at 8192":            func(_, v map[string]any) { v["hash_offset"] = 2 * block },
		"hash tree at 12289":           func(_, v map[string]any) { v["hash_offset"] = 3*block + 1 },
		"20480 bytes, not 24576":       func(m, _ map[string]any) { m["size"] = 6 * block },
		`root hash is "abc panic=0"`:   func(_, v map[string]any) { v["root_hash"] = "abc panic=0" },
		`salt is ""`:                   func(_, v map[string]any) { v["salt"] = "" },
		`salt is "\" init=/bin/sh"`:    func(_, v map[string]any) { v["salt"] = `" init=/bin/sh` },
		"the root hash of its tree is": func(_, v map[string]any) { v["root_hash"] = strings.Repeat("00", 32) },
	} {
		path := write(t, change)
		image, err := rootimage.Open(path)
		if err == nil {
			t.Errorf("want %s", want)
			image.Close()
			continue
		}
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "guest.img") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestChangedImage(t *testing.T) {
	path := write(t, nil)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// The guest finds changed data, when it reads it.
	if _, err := file.WriteAt([]byte{9}, block); err != nil {
		t.Fatal(err)
	}
	image, err := rootimage.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Verify(); !errors.Is(err, rootimage.ErrMismatch) {
		t.Errorf("Verify of a changed image: %v", err)
	}
	if _, err := file.WriteAt([]byte{9}, 4*block); err != nil {
		t.Fatal(err)
	}
	if _, err := rootimage.Open(path); !errors.Is(err, rootimage.ErrMismatch) {
		t.Errorf("Open of one with another tree: %v", err)
	}
}

func TestMissingFiles(t *testing.T) {
	path := write(t, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := rootimage.Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
	if err := os.Remove(rootimage.ManifestPath(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := rootimage.Open(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "guest.manifest.json") {
		t.Errorf("no manifest: %v", err)
	}
}
