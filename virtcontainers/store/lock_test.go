package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDirectoryThatIsLockedForLong(t *testing.T) {
	dir := t.TempDir()
	held, err := LockDirectory(t.Context(), dir, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockDirectory(t.Context(), dir, 10*time.Millisecond)
	if want := fmt.Sprintf("process %d (", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "not free after 10ms") {
		t.Errorf("error %v, want %q in it", err, want)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := LockDirectory(t.Context(), dir, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestDirectoryOfSomebodyElse(t *testing.T) {
	s := open(t)
	for name, spoil := range map[string]func(dir string) error{
		"writable": func(dir string) error { return os.Chmod(dir, 0o770) },
		"owner":    func(dir string) error { return os.Chown(dir, 4711, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("needs root, to give a directory away")
			}
			made := filepath.Join(s.Root(), name)
			if err := errors.Join(os.MkdirAll(made, 0o700), spoil(made)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Reserve(name); !errors.Is(err, ErrUnsafe) {
				t.Errorf("a container's directory: %v", err)
			}
			root, err := Open(made)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := root.Reserve("c"); !errors.Is(err, ErrUnsafe) {
				t.Errorf("the root: %v", err)
			}
			if _, err := root.List(); err != nil {
				t.Errorf("what is there can be seen: %v", err)
			}
		})
	}
	sticky := filepath.Join(s.Root(), "sticky") // as /tmp is
	if err := errors.Join(os.MkdirAll(sticky, 0o700), os.Chmod(sticky, os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	root, err := Open(sticky)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.Reserve("c"); err != nil {
		t.Error(err)
	}
}
