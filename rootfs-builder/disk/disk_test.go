package disk

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/rootfs-builder/image"
)

// The salt is made from the data; with it, veritysetup format (cryptsetup 2.6.1) says
// the same root hash.
func TestVerityIsThatOfVeritysetup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	var data []byte
	for i := range 300 * BlockSize / 8 {
		data = append(data, strconv.FormatInt(int64(10_000_000+i), 10)...)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	hashes, err := addHashes(path)
	if err != nil {
		t.Fatal(err)
	}
	want := image.Verity{
		Hash: "sha256", RootHash: "cf8a277c09d739b9327909633f190d4b350036d040f7b520cc91188a3e625756",
		Salt: "43ce598ad8ab75ec785eff30d2b16c7313f513cf3afa9c290414aeb338e68e2d", UUID: "3b44659f-8e75-836b-b3be-91ccc2d004bb",
		BlockSize: 4096, DataBlocks: 300, HashOffset: 300 * 4096,
	}
	if diff := cmp.Diff(want, hashes); diff != "" {
		t.Error(diff)
	}
}
