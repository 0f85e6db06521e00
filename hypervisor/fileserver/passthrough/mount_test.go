package passthrough_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

func options() passthrough.Options { return passthrough.Options{Cache: passthrough.Shared()} }

// TestPosix runs the tests of the protocol's library.
func TestPosix(t *testing.T) {
	_, mnt := mounted(t, options())
	for name, f := range posixtest.All {
		switch name {
		case "FcntlFlockLocksFile":
			continue // wants a process to be refused its own POSIX lock
		case "XAttrLarge":
			continue // wants 64 KiB, which ext4 does not have
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(mnt, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			f(t, dir)
		})
	}
}

// TestFreshness has the host change files that the guest has read: the next open or stat
// sees it.
func TestFreshness(t *testing.T) {
	source, mnt := mounted(t, options())
	write := func(dir, name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sees := func(name, want string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(mnt, name))
		if err != nil || string(got) != want {
			t.Fatalf("the guest reads %q of %s, want %q: %v", got, name, want, err)
		}
		st, err := os.Stat(filepath.Join(mnt, name))
		if err != nil || st.Size() != int64(len(want)) {
			t.Fatalf("the guest sees %s as %v, want %d bytes: %v", name, st, len(want), err)
		}
	}
	for round := range 30 {
		name := fmt.Sprint("file", round)
		write(source, name, "one")
		sees(name, "one")
		write(source, name, "two") // of the same size, within a tick of the clock
		sees(name, "two")
		write(source, name, "longer")
		sees(name, "longer")
		write(mnt, name, "the guest's")
		sees(name, "the guest's")
		write(source, "new", "replaced")
		if err := os.Rename(filepath.Join(source, "new"), filepath.Join(source, name)); err != nil {
			t.Fatal(err)
		}
		sees(name, "replaced")
		if err := os.Remove(filepath.Join(source, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(mnt, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("what the host removed: %v", err)
		}
		// As the kubelet changes a volume.
		for _, version := range []string{"v1", "v2"} {
			dir := filepath.Join(source, fmt.Sprint("..", round, version))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			write(dir, "key", version)
			if err := os.Symlink(filepath.Base(dir), filepath.Join(source, "..tmp")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(source, "..tmp"), filepath.Join(source, "..data")); err != nil {
				t.Fatal(err)
			}
			sees("..data/key", version)
		}
	}
}
