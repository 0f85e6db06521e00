package cache_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"kata-runtime/kernel-config/cache"
)

func writeResult(dir string) error {
	return os.WriteFile(filepath.Join(dir, "result"), []byte("done"), 0o600)
}

func TestGetFillsOnce(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "new")
	var fills atomic.Int32
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			dir, err := cache.Get(t.Context(), folder, "key", func(_ context.Context, dir string) error {
				fills.Add(1)
				return writeResult(dir)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if text, err := os.ReadFile(filepath.Join(dir, "result")); err != nil || string(text) != "done" {
				t.Errorf("result = %q, %v", text, err)
			}
		})
	}
	callers.Wait()
	if got := fills.Load(); got != 1 {
		t.Errorf("filled %d times, want once", got)
	}
}

func TestGetLeavesNothingOfAFailure(t *testing.T) {
	folder := t.TempDir()
	failure := errors.New("no luck")
	_, err := cache.Get(t.Context(), folder, "key", func(_ context.Context, dir string) error {
		return errors.Join(writeResult(dir), failure)
	})
	if !errors.Is(err, failure) {
		t.Fatalf("Get = %v, want the fill's error", err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != "key.lock" {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
	if _, err := cache.Get(t.Context(), folder, "key", func(_ context.Context, dir string) error { return writeResult(dir) }); err != nil {
		t.Errorf("Get after a failure: %v", err)
	}
}

func TestGetStopsWaitingWithItsContext(t *testing.T) {
	folder := t.TempDir()
	filling, release := make(chan struct{}), make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		_, err := cache.Get(context.Background(), folder, "key", func(context.Context, string) error {
			close(filling)
			<-release
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-filling
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := cache.Get(ctx, folder, "key", func(context.Context, string) error {
		t.Error("filled twice")
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Get = %v, want context.Canceled", err)
	}
	close(release)
	owner.Wait()
}

func TestGetRefusesKeysThatArePaths(t *testing.T) {
	for _, key := range []string{"", ".", "..", "a/b", "../x", ".hidden"} {
		if _, err := cache.Get(t.Context(), t.TempDir(), key, nil); err == nil {
			t.Errorf("key %q was accepted", key)
		}
	}
}

func TestWriteFileReplacesAndCopies(t *testing.T) {
	target := filepath.Join(t.TempDir(), "sub", "file")
	for _, text := range []string{"one", "two"} {
		if err := cache.WriteFile(target, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	duplicate := filepath.Join(filepath.Dir(target), "copy")
	if err := cache.CopyFile(target, duplicate); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(duplicate)
	if err != nil || string(text) != "two" {
		t.Errorf("copy = %q, %v", text, err)
	}
	entries, err := os.ReadDir(filepath.Dir(target))
	if err != nil || len(entries) != 2 {
		t.Errorf("directory holds %v, %v; want two files", entries, err)
	}
}

func TestSymlinkIsRelativeAndReplaces(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "target"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "sub", "link")
	for range 2 {
		if err := cache.Symlink(filepath.Join(dir, "target"), link); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.Readlink(link)
	if err != nil || got != "../target" {
		t.Errorf("link = %q, %v", got, err)
	}
}
