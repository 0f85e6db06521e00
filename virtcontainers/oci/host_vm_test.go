//go:build vm

package oci

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread in a mount namespace of its own sees what is mounted there.
func TestMountsOfThread(t *testing.T) {
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		writable bool
		err      error
	}
	answers := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var a answer
		a.err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if a.err == nil {
			a.err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if a.err == nil {
			a.err = unix.Mount("tmpfs", below, "tmpfs", 0, "")
		}
		if a.err == nil {
			a.writable, a.err = realHost{}.WritableBelow(dir)
		}
		answers <- a
	}()
	a := <-answers
	if a.err != nil {
		t.Fatal(a.err)
	}
	if !a.writable {
		t.Error("what the thread has mounted is not seen")
	}
	if writable, err := (realHost{}).WritableBelow(dir); err != nil || writable {
		t.Errorf("another thread sees it: %v, %v", writable, err)
	}
}
