//go:build vm

package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// What a container has put into a directory cannot make another one see what is
// outside of it.
func TestMountDirectory(t *testing.T) {
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(root, "there"), 0o700), os.Chmod(root, os.ModeSetgid|0o770), os.Mkdir(outside, 0o700),
		os.WriteFile(filepath.Join(root, "file"), []byte("text"), 0o600), os.Symlink("../outside", filepath.Join(root, "up")),
		os.Symlink(outside, filepath.Join(root, "absolute")), os.Symlink("there", filepath.Join(root, "link")),
		os.Symlink("nowhere", filepath.Join(root, "dangling")), os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path, want string // where it leads, in root
		err        error
	}{
		{"there", "there", nil},
		{"/new/inner", "new/inner", nil},
		{"file", "file", nil},
		{"link", "there", nil},
		{"../../there", "there", nil},
		{"up", "", nil},
		{"absolute", "", nil},
		{"dangling", "", unix.EEXIST},
		{"file/x", "", unix.ENOTDIR},
	} {
		t.Run(test.path, func(t *testing.T) {
			target := filepath.Join(dir, "target")
			request := &protocol.Storage{Driver: "directory", Source: root, Path: test.path, MountPoint: target}
			err := Mount(t.Context(), request)
			if err == nil {
				defer func() {
					if err := Unmount(target); err != nil {
						t.Error(err)
					}
				}()
			}
			if test.want == "" && test.err == nil {
				// A link that leads out leads to what its name means inside, which is
				// not there.
				if !errors.Is(err, unix.EEXIST) {
					t.Errorf("error %v, want EEXIST", err)
				}
				return
			}
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err != nil {
				return
			}
			got, gotErr := os.Stat(target)
			want, wantErr := os.Stat(filepath.Join(root, test.want))
			if gotErr != nil || wantErr != nil || !os.SameFile(got, want) {
				t.Errorf("it is not %s: %v, %v", test.want, gotErr, wantErr)
			}
		})
	}
	if info, err := os.Stat(filepath.Join(root, "new/inner")); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o770 {
		t.Errorf("what was made is %v, %v", info.Mode(), err)
	}
}
