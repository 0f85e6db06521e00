package tree_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"kata-runtime/rootfs-builder/tree"
)

// archive makes a tar archive of lines: "d NAME", "f NAME CONTENT", "l NAME TARGET",
// "h NAME TARGET", "c NAME".
func archive(t *testing.T, lines ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, line := range lines {
		fields := append(strings.SplitN(line, " ", 3), "")
		header := &tar.Header{Name: fields[1], Mode: 0o755, Uid: 7, Gid: 8}
		switch fields[0] {
		case "d":
			header.Typeflag = tar.TypeDir
		case "f":
			header.Typeflag, header.Mode, header.Size = tar.TypeReg, 0o4044, int64(len(fields[2]))
		case "l":
			header.Typeflag, header.Linkname = tar.TypeSymlink, fields[2]
		case "h":
			header.Typeflag, header.Linkname = tar.TypeLink, fields[2]
		case "c":
			header.Typeflag, header.Devmajor, header.Devminor = tar.TypeChar, 1, 3
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(writer, fields[2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func newTree(t *testing.T) *tree.Tree {
	t.Helper()
	files, err := tree.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	})
	return files
}

// list is what is in a tree, a line per file.
func list(t *testing.T, files *tree.Tree) []string {
	t.Helper()
	var lines []string
	err := files.Walk(func(name string, file *tree.Node, first string) error {
		line := fmt.Sprintf("%v %s", file.Mode, name)
		switch {
		case first != "":
			line += " = " + first
		case file.Mode.IsRegular():
			content, err := io.ReadAll(files.Open(file))
			if err != nil {
				return err
			}
			line += " " + string(content)
		case file.Mode&fs.ModeSymlink != 0:
			line += " -> " + file.Target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestLayers(t *testing.T) {
	for name, test := range map[string]struct {
		layers [][]string
		want   []string
	}{
		"names in order, roots alone, no devices": {
			[][]string{{"f z 1", "d ./b", "f b/y 2", "c dev/null", "f ../../a 3"}},
			[]string{"-r--r--r-- /a 3", "drwxr-xr-x /b", "-r--r--r-- /b/y 2", "drwxr-xr-x /dev", "-r--r--r-- /z 1"},
		},
		"whiteouts": {
			[][]string{
				{"f a 1", "f d/x 1", "f d/y 1", "f e/x 1", "f g 1"},
				{"f d/z 2", "f d/.wh..wh..opq ", "f .wh.a ", "f .wh.e ", "f e/new 2", "f .wh.nothing ", "f g 2", "f .wh.g "},
			},
			[]string{"drwxr-xr-x /d", "-r--r--r-- /d/z 2", "drwxr-xr-x /e", "-r--r--r-- /e/new 2", "-r--r--r-- /g 2"},
		},
		"below links": {
			[][]string{
				{"d usr/lib", "l lib usr/lib", "l up /usr/../lib/."},
				{"d lib", "f lib/a 1", "f up/b 2", "d usr/lib/c"},
			},
			[]string{
				"Lrwxrwxrwx /lib -> usr/lib", "Lrwxrwxrwx /up -> /usr/../lib/.",
				"drwxr-xr-x /usr", "drwxr-xr-x /usr/lib", "-r--r--r-- /usr/lib/a 1", "-r--r--r-- /usr/lib/b 2", "drwxr-xr-x /usr/lib/c",
			},
		},
		"hard links outlive the first name": {
			[][]string{{"f b 1", "h c b", "h a ./b", "h l c"}, {"f a 2"}},
			[]string{"-r--r--r-- /a 2", "-r--r--r-- /b 1", "-r--r--r-- /c = /b", "-r--r--r-- /l = /b"},
		},
		"other kinds": {
			[][]string{{"d a/b", "f c 1", "l dangling nowhere"}, {"f a 1", "d c", "d dangling"}},
			[]string{"-r--r--r-- /a 1", "drwxr-xr-x /c", "drwxr-xr-x /dangling"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := newTree(t)
			for i, layer := range test.layers {
				if err := files.Add(bytes.NewReader(archive(t, layer...)), tree.Layer{Name: fmt.Sprint(i), Whiteouts: true}); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(test.want, list(t, files)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCompressedArchives(t *testing.T) {
	plain := archive(t, "f a 1")
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	if _, err := writer.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"plain": plain, "gzip": zipped.Bytes(), "zstd": encoder.EncodeAll(plain, nil)} {
		files := newTree(t)
		if err := files.Add(bytes.NewReader(data), tree.Layer{Name: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if content, err := files.Read("/a"); err != nil || string(content) != "1" {
			t.Errorf("%s: read %q, %v", name, content, err)
		}
	}
}

func TestRefusedArchives(t *testing.T) {
	for want, lines := range map[string][]string{
		"too many symbolic links":    {"l a b", "l b a", "f a/c 1"},
		"not a directory":            {"f a 1", "f a/b 1"},
		"hard link to /b":            {"h a b"},
		"hard link to /d: it is":     {"d d", "h a d"},
		"symbolic link a: not a dir": {"f x 1", "l a x/g", "f a/b 1"},
	} {
		err := newTree(t).Add(bytes.NewReader(archive(t, lines...)), tree.Layer{Name: "test.tar"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "test.tar") {
			t.Errorf("%q: %v, want %q", lines, err, want)
		}
	}
	cut := archive(t, "f a 1")[:512]
	if err := newTree(t).Add(bytes.NewReader(cut), tree.Layer{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an archive cut off: %v", err)
	}
	if _, err := newTree(t).Read("/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	files, err := tree.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
