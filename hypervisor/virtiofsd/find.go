package virtiofsd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"kata-runtime/hypervisor/jail"
)

// ErrNotFound says that no virtiofsd is installed where it was looked for.
var ErrNotFound = errors.New("virtiofsd was not found")

// Kind tells the two daemons apart.
type Kind string

// The kinds.
const (
	// C is the daemon of QEMU's source tree, up to QEMU 7.2.
	C Kind = "C"
	// Rust is the daemon of its own project.
	Rust Kind = "Rust"
)

// Installation is a virtiofsd on this host.
type Installation struct {
	// Path is the program's absolute path.
	Path string
	Kind Kind
	// Version is as in "7.2.22" (QEMU's) or "1.13.0".
	Version string
}

// SearchPaths are where distributions put the daemon, the Rust one first: it is
// the one that is maintained.
func SearchPaths() []string {
	return []string{
		"/usr/libexec/virtiofsd",
		"/usr/lib/virtiofsd",
		"/usr/libexec/kata-containers/virtiofsd",
		"/usr/local/libexec/virtiofsd",
		"/usr/lib/qemu/virtiofsd",
		"/usr/lib/qemu-kvm/virtiofsd",
	}
}

// versionTimeout bounds a program's answer to --version, should path be some
// other program.
const versionTimeout = 5 * time.Second

// Find returns the daemon at path, or, when path is empty, the first that works
// where distributions put it. None is an error that wraps ErrNotFound; a path
// with another program is an error too.
func Find(path string) (Installation, error) {
	if path != "" {
		return inspect(path)
	}
	var errs []error
	for _, candidate := range SearchPaths() {
		found, err := inspect(candidate)
		if err == nil {
			return found, nil
		}
		// What is there and does not work is another error than nothing.
		if !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return Installation{}, errors.Join(errs...)
	}
	return Installation{}, fmt.Errorf("%w in %s", ErrNotFound, strings.Join(SearchPaths(), ", "))
}

// locate is Find without starting the program, which would cost a process on the way
// to every VM: where its path says its kind, or where dir keeps the answer. An empty
// dir keeps none.
func locate(path, dir string) (Installation, error) {
	if path == "" {
		path = firstProgram(SearchPaths())
	}
	switch path {
	case "/usr/lib/qemu/virtiofsd", "/usr/lib/qemu-kvm/virtiofsd":
		// Only QEMU's own packages install below these directories.
		return Installation{Path: path, Kind: C}, nil
	}
	if path == "" || dir == "" {
		return Find(path)
	}
	if _, err := os.Stat(path); err != nil {
		return Installation{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return jail.Recall(dir, "virtiofsd", path, nil, func() (Installation, error) { return Find(path) })
}

// firstProgram returns the first of the paths that is a program.
func firstProgram(paths []string) string {
	for _, candidate := range paths {
		if info, err := os.Stat(candidate); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return candidate
		}
	}
	return ""
}

// inspect asks a program what it is.
func inspect(path string) (Installation, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Installation{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return Installation{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return Installation{}, fmt.Errorf("%w: %s is not a program", ErrNotFound, path)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), versionTimeout, fmt.Errorf("no answer within %v", versionTimeout))
	defer cancel()
	// Not CombinedOutput alone: WaitDelay bounds a program that leaves its
	// output to a child.
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		said := ""
		if out := bytes.TrimSpace(out); len(out) > 0 {
			said = fmt.Sprintf(": %.200q", out)
		}
		return Installation{}, fmt.Errorf("ask %s for its version: %w%s", path, err, said)
	}
	kind, version, err := parseVersion(string(out))
	if err != nil {
		return Installation{}, fmt.Errorf("%s: %w", path, err)
	}
	return Installation{Path: path, Kind: kind, Version: version}, nil
}

// parseVersion reads what a daemon says of itself. The C one says "virtiofsd
// version 7.2.22 (Debian ...)" and more, the Rust one "virtiofsd 1.13.0"; both
// follow QEMU's and Cargo's conventions.
func parseVersion(text string) (Kind, string, error) {
	const number = `(\d+(?:\.\d+)+\S*)`
	if m := regexp.MustCompile(`(?m)^(?:virtiofsd|.*/virtiofsd) version ` + number).FindStringSubmatch(text); m != nil {
		return C, m[1], nil
	}
	if m := regexp.MustCompile(`(?m)^virtiofsd(?: backend)? ` + number).FindStringSubmatch(text); m != nil {
		return Rust, m[1], nil
	}
	return "", "", fmt.Errorf("%.80q is not the version of a virtiofsd", text)
}
