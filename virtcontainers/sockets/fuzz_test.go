package sockets

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/share"
)

// FuzzRenames lets a container do in a bind-mounted directory what it likes while
// sockets are looked for there. Each byte of the script is an operation and a name
// of few. What was seen in the end is what a look from the beginning would see.
func FuzzRenames(f *testing.F) {
	for _, script := range [][]byte{
		{0x00, 0x11, 0x52},
		{0x00, 0x10, 0x20, 0x11, 0x30},
		{0x00, 0x13, 0x23, 0x33, 0x43, 0x63},
		{0x00, 0x14, 0x25, 0x35, 0x45, 0x55, 0x65, 0x75},
		{0x01, 0x02, 0x12, 0x52, 0x62, 0x32, 0x72},
	} {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		h, g := newHost(t), newGuest(t)
		inside := filepath.Join(h.dir, "inside")
		if err := os.Mkdir(inside, 0o700); err != nil {
			t.Fatal(err)
		}
		h.listen("outside", "outside")
		h.listen("inside/a", "a")
		c := add(t, g, "c1", share.Mount{Name: "mounts/0", Tree: h.tree("inside")})
		names := []string{"a", "b", "d", "d/a", "d/e", "d/e/a", "d/e/f", "d/e/f/a"}
		at := func(i int) string { return filepath.Join(inside, names[i%len(names)]) }
		for i, b := range script[:min(len(script), 64)] {
			one, other := at(int(b&7)), at(int(b&7)+i+1)
			switch b >> 4 & 7 { // errors are of no interest
			case 0:
				_ = os.MkdirAll(one, 0o700)
			case 1:
				_ = os.Link(filepath.Join(h.dir, "outside"), one)
			case 2:
				_ = os.Rename(one, other)
			case 3:
				_ = os.RemoveAll(one)
			case 4:
				_ = unix.Renameat2(unix.AT_FDCWD, one, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			case 5:
				_ = os.Symlink(h.dir, one)
			case 6:
				_ = os.Chmod(one, os.FileMode(b))
				_ = os.Chmod(one, 0o700)
			case 7:
				_ = os.WriteFile(one, nil, 0o600)
			}
		}
		// As after events that were lost.
		c.rescan(g.watch())
		got := strings.Fields(paths(c.Binds()))
		for i, name := range got {
			got[i] = strings.TrimPrefix(name, "mounts/0:")
		}
		var want []string
		_ = filepath.WalkDir(inside, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Type() == os.ModeSocket {
				relative, _ := filepath.Rel(inside, path)
				if strings.Count(relative, "/") <= maxDepth {
					want = append(want, relative)
				}
			}
			return nil
		})
		slices.Sort(got)
		slices.Sort(want)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("sockets %q, want %q", got, want)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, b := range c.binds {
			if len(b.dirs) > maxDirectories {
				t.Errorf("%d directories", len(b.dirs))
			}
		}
	})
}
