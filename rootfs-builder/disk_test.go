package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/rootfs-builder/disk"
	"kata-runtime/rootfs-builder/image"
	"kata-runtime/rootfs-builder/sbom"
)

// rootFileSystem writes an archive such as a distribution's root file system.
func rootFileSystem(t *testing.T, path string, when time.Time) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	archive := tar.NewWriter(file)
	for _, header := range []tar.Header{
		{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		{Name: "./usr/bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 5000},
		{Name: "./usr/bin/doas", Typeflag: tar.TypeLink, Linkname: "./usr/bin/su"},
		{Name: "./etc/shadow", Typeflag: tar.TypeReg, Mode: 0, Uid: 0, Gid: 42, Size: 1},
		{Name: "./etc/ssl/certs/ca-certificates.crt", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4},
		{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Name: "./srv", Typeflag: tar.TypeDir, Mode: 0o555, Uid: 1000},
		{Name: "./srv/file", Typeflag: tar.TypeReg, Mode: 0o644, Size: 9000},
	} {
		header.ModTime = when
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(bytes.Repeat([]byte{'x'}, int(header.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
}

// buildTestDisk builds an image in a directory, of files that it makes there.
func buildTestDisk(t *testing.T, dir, kind string, when time.Time) (string, image.Manifest) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	certificate := "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	for name, content := range map[string]string{"agent": "#!agent", "hook": "#!hook", "ca.pem": certificate} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	rootFileSystem(t, filepath.Join(dir, "root.tar"), time.Unix(1, 0))
	var contents image.Contents
	addBase(&contents, filepath.Join(dir, "agent"))
	o := options{
		kind: kind, output: filepath.Join(dir, "out", "guest.img"), out: io.Discard, json: true,
		tars: []string{filepath.Join(dir, "root.tar")}, certificates: []string{filepath.Join(dir, "ca.pem")},
		files: []string{filepath.Join(dir, "hook") + ":/bin/hook:755"},
		sbom:  filepath.Join(dir, "out", "guest.spdx.json"),
	}
	manifest, err := buildDisk(t.Context(), o, &contents, sbom.Image{Created: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return o.output, manifest
}

func TestDisk(t *testing.T) {
	for _, kind := range []string{disk.EROFS, disk.Ext4} {
		t.Run(kind, func(t *testing.T) {
			first, manifest := buildTestDisk(t, filepath.Join(t.TempDir(), "here"), kind, time.Unix(1e9, 0))
			want := []image.Entry{
				{Path: "/bin", Mode: "Lrwxrwxrwx", Size: 7},
				{Path: "/dev", Mode: "drwxr-xr-x"},
				{Path: "/etc", Mode: "drwxr-xr-x"},
				{Path: "/etc/shadow", Mode: "-r--------", Size: 1, SHA256: sum("x")},
				{Path: "/etc/ssl", Mode: "drwxr-xr-x"},
				{Path: "/etc/ssl/certs", Mode: "drwxr-xr-x"},
				{
					Path: "/etc/ssl/certs/ca-certificates.crt", Mode: "-rw-r--r--", Size: 64,
					SHA256: sum("xxxx\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
				},
				{Path: "/init", Mode: "-rwxr-xr-x", Size: 7, SHA256: sum("#!agent")},
				{Path: "/proc", Mode: "drwxr-xr-x"},
				{Path: "/run", Mode: "drwxr-xr-x"},
				{Path: "/srv", Mode: "dr-xr-xr-x"},
				{Path: "/srv/file", Mode: "-rw-r--r--", Size: 9000, SHA256: sum(strings.Repeat("x", 9000))},
				{Path: "/sys", Mode: "drwxr-xr-x"},
				{Path: "/tmp", Mode: "dtrwxrwxrwx"},
				{Path: "/usr", Mode: "drwxr-xr-x"},
				{Path: "/usr/bin", Mode: "drwxr-xr-x"},
				{Path: "/usr/bin/doas", Mode: "-rwxr-xr-x", Size: 5000, SHA256: sum(strings.Repeat("x", 5000))},
				{Path: "/usr/bin/hook", Mode: "-rwxr-xr-x", Size: 6, SHA256: sum("#!hook")},
				{Path: "/usr/bin/su", Mode: "-rwxr-xr-x", Size: 5000, SHA256: sum(strings.Repeat("x", 5000))},
			}
			if diff := cmp.Diff(want, manifest.Entries); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			var written image.Manifest
			text := readFile(t, manifestBeside(first))
			if err := json.Unmarshal(text, &written); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(manifest, written); diff != "" {
				t.Errorf("manifest (-returned +written):\n%s", diff)
			}
			if manifest.SHA256 != sum(string(readFile(t, first))) || manifest.FileSystem != kind || len(manifest.Sources) != 1 {
				t.Errorf("manifest %+v", manifest)
			}
			again, _ := buildTestDisk(t, filepath.Join(t.TempDir(), "elsewhere", "deeper"), kind, time.Now())
			for _, name := range []string{"guest.img", "guest.manifest.json", "guest.spdx.json"} {
				if !bytes.Equal(readFile(t, filepath.Join(filepath.Dir(first), name)), readFile(t, filepath.Join(filepath.Dir(again), name))) {
					t.Errorf("built again at another time and place, %s is another one", name)
				}
			}
			if entries, err := os.ReadDir(filepath.Dir(first)); err != nil || len(entries) != 3 {
				t.Errorf("the build left %v, %v", entries, err)
			}
			checkFileSystem(t, kind, first, manifest)
		})
	}
}

// checkFileSystem lets the file system's own tools read it.
func checkFileSystem(t *testing.T, kind, path string, manifest image.Manifest) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, readFile(t, path)[:manifest.Verity.DataBlocks*manifest.Verity.BlockSize], 0o600); err != nil {
		t.Fatal(err)
	}
	var out []byte
	var err error
	if kind == disk.EROFS {
		out, err = exec.Command("dump.erofs", "--path=/usr/bin/su", data).CombinedOutput()
	} else {
		out, err = exec.Command("debugfs", "-R", "stat /usr/bin/su", data).CombinedOutput()
	}
	text := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{"Links: 2", "5000", "0755"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %q: %v\n%s", kind, want, err, out)
		}
	}
}

func TestParseExtra(t *testing.T) {
	if source, name, mode, err := parseExtra("a b:/c:0750"); source != "a b" || name != "/c" || mode != 0o750 || err != nil {
		t.Errorf("%q, %q, %o, %v", source, name, mode, err)
	}
	for _, text := range []string{"", "a", "a:b", ":/b", "a:/b:8", "a:/b:1777", "a:/b:7:7"} {
		if _, _, _, err := parseExtra(text); err == nil || !strings.Contains(err.Error(), "-add") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNoCertificate(t *testing.T) {
	var contents image.Contents
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{certificates: []string{path}, out: io.Discard}
	dir := t.TempDir()
	o.output, o.kind = filepath.Join(dir, "guest.img"), disk.EROFS
	if _, err := buildDisk(t.Context(), o, &contents, sbom.Image{}); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("a key: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the build that failed left %v, %v", entries, err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

// Why a file cannot be added is told, and not that nobody reads the others any more.
func TestAFileBelowAFile(t *testing.T) {
	dir := t.TempDir()
	rootFileSystem(t, filepath.Join(dir, "root.tar"), time.Unix(1, 0))
	for name, size := range map[string]int{"agent": 1, "more": 1 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var contents image.Contents
	addBase(&contents, filepath.Join(dir, "agent"))
	o := options{
		kind: disk.Ext4, output: filepath.Join(dir, "out", "guest.img"), out: io.Discard, json: true,
		tars:  []string{filepath.Join(dir, "root.tar")},
		files: []string{filepath.Join(dir, "more") + ":/srv/file/below", filepath.Join(dir, "more") + ":/var/more"},
	}
	_, err := buildDisk(t.Context(), o, &contents, sbom.Image{Created: time.Unix(0, 0)})
	if err == nil || !strings.HasPrefix(err.Error(), "add srv/file/below of the builder's files: not a directory") {
		t.Errorf("error %v", err)
	}
}
