package qemu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"kata-runtime/hypervisor/tail"
)

// ErrNoQEMU says that no QEMU was found.
var ErrNoQEMU = errors.New("QEMU was not found")

// Find returns the absolute path of QEMU's program for guests of the host's
// architecture: path itself when it is not empty, otherwise the first in PATH. Not
// found, or not executable, wraps ErrNoQEMU.
func Find(path string) (string, error) { return find(path, runtime.GOARCH) }

func find(path, arch string) (string, error) {
	name := path
	if name == "" {
		found, err := architectureOf(arch)
		if err != nil {
			return "", fmt.Errorf("%w: no program for %s", ErrNoQEMU, arch)
		}
		name = found.program
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoQEMU, err)
	}
	return found, nil
}

// Version returns what path says its version is, as in "7.2.22".
func Version(ctx context.Context, path string) (string, error) {
	out, err := ask(ctx, path, "--version")
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return parseVersion(out)
}

// ask returns what QEMU prints. An error says what it complains of.
func ask(ctx context.Context, path string, args ...string) (string, error) {
	var complaints tail.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr, cmd.WaitDelay = &complaints, stderrGrace
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("%w%s", err, quoteTail(&complaints))
	}
	return string(out), nil
}

func parseVersion(text string) (string, error) {
	first, _, _ := strings.Cut(text, "\n")
	match := regexp.MustCompile(`^QEMU emulator version (\d+\.\d+(?:\.\d+)?)\b`).FindStringSubmatch(first)
	if match == nil {
		return "", fmt.Errorf("%.80q is not a version of QEMU", first)
	}
	return match[1], nil
}
