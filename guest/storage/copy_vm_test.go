//go:build vm

package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestCopyInto compares everything that a file can have.
func TestCopyInto(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	in := func(name string) string { return filepath.Join(from, name) }
	sparse, err := os.Create(in("sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	_, middle := sparse.WriteAt([]byte("middle"), 10<<20)
	long := strings.Repeat("long/", 60)
	// Version 2 of a file's capabilities, with CAP_NET_RAW.
	capability := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := errors.Join(
		middle, sparse.Truncate(20<<20),
		os.MkdirAll(in("a/b"), 0o700), os.Chmod(in("a"), fs.ModeSetgid|0o2750), os.Lchown(in("a"), 1000, 2000),
		os.WriteFile(in("a/b/file"), bytes.Repeat([]byte("content"), 1<<18), 0o600), os.Lchown(in("a/b/file"), 7, 8),
		os.WriteFile(in("program"), []byte("x"), 0o755), os.Lchown(in("program"), 5, 5),
		os.Chmod(in("program"), fs.ModeSetuid|0o711), unix.Lsetxattr(in("program"), "security.capability", capability, 0),
		os.Link(in("a/b/file"), in("linked")), os.Symlink("/etc/passwd", in("link")), os.Lchown(in("link"), 9, 9),
		os.Symlink(long, in("a/dangling")), os.Link(in("a/dangling"), in("dangling")),
		unix.Mkfifo(in("fifo"), 0o620), unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0), os.WriteFile(in("empty"), nil, 0), os.Chmod(from, fs.ModeSticky|0o1777),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sparse", "a/b", "a", "a/b/file", "program", "link", "fifo", "null", "."} {
		times := []unix.Timespec{{Sec: 1000, Nsec: 1}, {Sec: int64(len(name)), Nsec: 123456789}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, in(name), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	want := describeTree(t, from)
	if err := copyInto(t.Context(), from, to, 1<<30); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, describeTree(t, to)); diff != "" {
		t.Error(diff)
	}
	var a, b, copied unix.Stat_t
	if err := errors.Join(
		unix.Stat(filepath.Join(to, "linked"), &a), unix.Stat(filepath.Join(to, "a/b/file"), &b), unix.Stat(filepath.Join(to, "sparse"), &copied),
	); err != nil {
		t.Fatal(err)
	}
	if a.Ino != b.Ino {
		t.Error("the names of one file have become two files")
	}
	if copied.Blocks > 1<<20/512 {
		t.Errorf("the holes were filled: %d blocks", copied.Blocks)
	}
}

func TestCopyIntoIsBounded(t *testing.T) {
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := copyInto(t.Context(), from, t.TempDir(), 1<<20); !errors.Is(err, ErrTooLarge) || !strings.HasPrefix(err.Error(), "file: ") {
		t.Errorf("error %v, want ErrTooLarge for the file", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copyInto(ctx, from, t.TempDir(), 1<<30); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if free, err := availableMemory(); err != nil || free < 1<<20 {
		t.Errorf("%d bytes are available, %v", free, err)
	}
}

// describeTree tells what each file has, and not when its inode was changed.
func describeTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(name, &stat); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d %x %v", stat.Mode, stat.Uid, stat.Gid, stat.Rdev, stat.Mtim)
		if !entry.IsDir() {
			text += fmt.Sprintf(" %d %d", stat.Nlink, stat.Size)
		}
		switch {
		case entry.Type().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %.20q", bytes.Trim(data, "\x00"))
		case entry.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			text += " " + target
		}
		value := make([]byte, 64)
		if n, err := unix.Lgetxattr(name, "security.capability", value); err == nil {
			text += fmt.Sprintf(" %x", value[:n])
		}
		relative, err := filepath.Rel(dir, name)
		all[relative] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
