package bundle

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/confined"
)

const (
	// pauseText is what Kubernetes' pause program, and CRI-O's, which is a copy, says
	// at its end: the last letters that all of its versions have in common.
	pauseText = "hutting down, got signal"
	// maxPause is more than it has bytes on any architecture.
	maxPause = 2 << 20
)

// Pauses tells whether the container's program does nothing but wait for a signal
// to end by: in the container that its caller declares to be a pod's first,
// Kubernetes' pause program, under whatever name. It looks into the root file
// system, in this process's mount namespace. What cannot be told is another program.
func (b *Bundle) Pauses() bool {
	process := b.Spec.Process
	if !b.declared || b.GuestRoot != "" || process.Terminal || len(process.Args) != 1 || !filepath.IsAbs(process.Args[0]) {
		return false
	}
	program := filepath.Clean(process.Args[0])
	if b.covered(program) {
		return false
	}
	text, err := readProgram(b.Rootfs, program)
	return err == nil && bytes.HasPrefix(text, []byte("\x7fELF")) && bytes.Contains(text, []byte(pauseText))
}

// readProgram reads a small program of a root file system.
func readProgram(rootfs, path string) ([]byte, error) {
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root file system: %w", err)
	}
	defer root.Close()
	place, err := confined.Open(root, path, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer place.Close()
	info, err := place.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 || info.Size() > maxPause { // a device may do something when it is opened
		return nil, fmt.Errorf("%s is no small program", path)
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", place.Fd()))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxPause))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}
