package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"kata-runtime/rootfs-builder/image"
)

// fill adds a small guest, in one of two orders.
func fill(contents *image.Contents, program string, backwards bool) {
	steps := []func(){
		func() { contents.HostFile("/init", 0o755, program) },
		func() { contents.Directory("/tmp", 0o1777) },
		func() { contents.CharDevice("/dev/console", 0o600, 5, 1) },
		func() { contents.File("/lib/modules/load", 0o644, []byte("/lib/a.ko\n")) },
		func() { contents.File("/etc/empty", 0o644, nil) },
	}
	if backwards {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		step()
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestWriteFilesIsReproducible(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	var images, manifests [][]byte
	for i, backwards := range []bool{false, true} {
		if err := os.WriteFile(program, []byte("#!program"), 0o700); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(program, when, when); err != nil {
			t.Fatal(err)
		}
		var contents image.Contents
		fill(&contents, program, backwards)
		out := filepath.Join(dir, "out", "initrd.img")
		if _, err := contents.WriteFiles(out, out+".json", "6.1"); err != nil {
			t.Fatal(err)
		}
		images = append(images, readAll(t, out))
		manifests = append(manifests, readAll(t, out+".json"))
		if err := os.Remove(program); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the images of the same contents differ")
	}
	if !bytes.Equal(manifests[0], manifests[1]) {
		t.Errorf("the manifests of the same contents differ:\n%s\n%s", manifests[0], manifests[1])
	}
}

func sum(data string) string {
	digest := sha256.Sum256([]byte(data))
	return hex.EncodeToString(digest[:])
}

func TestManifest(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!program"), 0o700); err != nil {
		t.Fatal(err)
	}
	var contents image.Contents
	fill(&contents, program, false)
	out := filepath.Join(dir, "initrd.img")
	returned, err := contents.WriteFiles(out, filepath.Join(dir, "manifest"), "6.1")
	if err != nil {
		t.Fatal(err)
	}
	var got image.Manifest
	if err := json.Unmarshal(readAll(t, filepath.Join(dir, "manifest")), &got); err != nil {
		t.Fatal(err)
	}
	archive := readAll(t, out)
	want := image.Manifest{
		Image: "initrd.img", SHA256: sum(string(archive)), Size: int64(len(archive)), KernelRelease: "6.1",
		Entries: []image.Entry{
			{Path: "/dev", Mode: "drwxr-xr-x"},
			{Path: "/dev/console", Mode: "Dcrw-------"},
			{Path: "/etc", Mode: "drwxr-xr-x"},
			{Path: "/etc/empty", Mode: "-rw-r--r--", SHA256: sum("")},
			{Path: "/init", Mode: "-rwxr-xr-x", Size: 9, SHA256: sum("#!program")},
			{Path: "/lib", Mode: "drwxr-xr-x"},
			{Path: "/lib/modules", Mode: "drwxr-xr-x"},
			{Path: "/lib/modules/load", Mode: "-rw-r--r--", Size: 10, SHA256: sum("/lib/a.ko\n")},
			{Path: "/tmp", Mode: "dtrwxrwxrwx"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(got, returned); diff != "" {
		t.Errorf("returned manifest (-file +returned):\n%s", diff)
	}
}

// The archive is read back with the format's reader: what the kernel will see.
func TestArchiveHoldsWhatWasAdded(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!program"), 0o700); err != nil {
		t.Fatal(err)
	}
	var contents image.Contents
	fill(&contents, program, false)
	out := filepath.Join(dir, "initrd.img")
	if _, err := contents.WriteFiles(out, "", ""); err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(readAll(t, out))))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]cpio.Record)
	for _, record := range records {
		if parent := filepath.Dir(record.Name); parent != "." && seen[parent].Name == "" {
			t.Errorf("%s comes before its directory", record.Name)
		}
		if record.MTime != 0 || record.UID != 0 || record.GID != 0 {
			t.Errorf("%s: owner %d:%d, time %d", record.Name, record.UID, record.GID, record.MTime)
		}
		seen[record.Name] = record
	}
	console := seen["dev/console"]
	if console.Mode != cpio.S_IFCHR|0o600 || console.Rmajor != 5 || console.Rminor != 1 {
		t.Errorf("console = %+v", console.Info)
	}
	if mode := seen["tmp"].Mode; mode != cpio.S_IFDIR|0o1777 {
		t.Errorf("mode of tmp = %o", mode)
	}
	program9, err := io.ReadAll(io.NewSectionReader(seen["init"], 0, math.MaxInt64))
	if err != nil || string(program9) != "#!program" {
		t.Errorf("init = %q, %v", program9, err)
	}
}

func TestWriteFilesReportsTheFirstError(t *testing.T) {
	dir := t.TempDir()
	var contents image.Contents
	contents.HostFile("/init", 0o755, filepath.Join(dir, "absent"))
	contents.Directory("/", 0o755)
	out := filepath.Join(dir, "initrd.img")
	if _, err := contents.WriteFiles(out, "", ""); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("WriteFiles = %v", err)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("an image was written all the same: %v", err)
	}
	var twice image.Contents
	twice.Directory("/a", 0o755)
	twice.Directory("a/", 0o755)
	if _, err := twice.WriteFiles(out, "", ""); err == nil || !strings.Contains(err.Error(), "added before") {
		t.Errorf("WriteFiles with an entry twice = %v", err)
	}
}
