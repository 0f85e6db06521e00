package bundle

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/confined"
	"kata-runtime/virtcontainers/architecture"
)

const (
	// maxInterpreters is how many scripts are the interpreters of scripts, at most, as
	// in Linux.
	maxInterpreters = 4
	// maxShebang is how much of a script's first line Linux reads.
	maxShebang = 256
)

// findArchitecture tells which machines run the container's program: what an annotation
// says, or else the program. A container that joins a pod has the pod's annotations
// too, which chose the machine: its own program counts. by says what told it. What
// cannot be told is empty and no error; an annotation without meaning is one.
func (b *Bundle) findArchitecture(joins bool) (name, by string, err error) {
	name, by, err = architecture.Annotated(b.Spec.Annotations)
	if err != nil || name != "" && !joins {
		return name, by, err
	}
	name, by = b.programArchitecture()
	return name, by, nil
}

// programArchitecture is what the program in the root file system is for, as this process's
// mount namespace shows it. A program in a volume is not looked for.
func (b *Bundle) programArchitecture() (name, by string) {
	process := b.Spec.Process
	if b.GuestRoot != "" || process == nil || len(process.Args) == 0 {
		return "", ""
	}
	root, err := os.OpenFile(b.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", "" // its mounting says so
	}
	defer root.Close()
	program := b.findProgram(root, process.Args[0])
	for range maxInterpreters + 1 {
		if program == "" {
			break
		}
		head := b.head(root, program)
		if name = architecture.OfELF(head); name != "" {
			return name, "the program " + program
		}
		program = interpreter(head)
	}
	return "", ""
}

// findProgram finds what is executed as name, as the guest will; empty: nothing that is
// seen here.
func (b *Bundle) findProgram(root *os.File, name string) string {
	cwd := filepath.Join("/", b.Spec.Process.Cwd)
	switch {
	case filepath.IsAbs(name):
		return name
	case strings.Contains(name, "/"):
		return filepath.Join(cwd, name)
	}
	for _, variable := range slices.Backward(b.Spec.Process.Env) { // the last one counts
		list, ok := strings.CutPrefix(variable, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(cwd, dir)
			}
			if program := filepath.Join(dir, name); b.head(root, program) != nil {
				return program
			}
		}
		break
	}
	return ""
}

// head reads the beginning of a program of the root file system; nil: it is none, or
// something else is mounted there.
func (b *Bundle) head(root *os.File, program string) []byte {
	if b.covered(filepath.Clean(program)) {
		return nil
	}
	place, err := confined.Open(root, program, 0)
	if err != nil {
		return nil
	}
	defer place.Close()
	// A device may do something when it is opened.
	if info, err := place.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return nil
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", place.Fd()))
	if err != nil {
		return nil
	}
	defer file.Close()
	head := make([]byte, maxShebang)
	n, err := file.ReadAt(head, 0)
	if n == 0 && err != nil {
		return nil
	}
	return head[:n]
}

// interpreter is what runs a script that begins so; empty: it is none.
func interpreter(head []byte) string {
	line, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return ""
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) == 0 || !filepath.IsAbs(string(fields[0])) {
		return ""
	}
	return string(fields[0])
}

// covered tells whether a mount of the container is at a clean path, or above it.
func (b *Bundle) covered(path string) bool {
	for _, mount := range b.Spec.Mounts {
		at := filepath.Clean(mount.Destination)
		if at == "/" || path == at || strings.HasPrefix(path, at+"/") {
			return true
		}
	}
	return false
}
