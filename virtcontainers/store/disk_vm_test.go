//go:build vm

package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fullDisk fills a small tmpfs, mounted in a namespace of this process's own,
// and then saves.
func fullDisk(s *Store) (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Root(), 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", s.Root(), "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	entry, err := s.Reserve("c")
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(s.Root(), "filler"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(file, strings.NewReader(strings.Repeat("x", 1<<20))); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the disk: %w", err)
	}
	if err := entry.Save(State{Owner: "x"}); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("save: %w", err)
	}
	if state, err := entry.Load(); err != nil || state.Owner != "" {
		return fmt.Errorf("the state is now %+v, %w", state, err)
	}
	if _, err := s.Reserve("d"); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("reserve: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(s.Root(), "d")); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("directory of a failed Reserve: %w", err)
	}
	return entry.Remove()
}

func TestFullTmpfs(t *testing.T) {
	cmd := command(t, open(t), "full disk")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}
