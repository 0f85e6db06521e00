// Package program provides the small programs that tests run in containers and
// guests: compiled on the spot, or taken from a directory where the go command
// is not, as on the lab's machine (test/lab).
package program

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

// DirectoryVariable names, in the environment, the directory of programs that
// were compiled before, each at its import path.
const DirectoryVariable = "KATA_TEST_PROGRAMS"

// SystemdVariable names, in the environment, the archive of a root file system
// with systemd, where build/systemd.tar of the source tree leads out of it.
const SystemdVariable = "KATA_TEST_SYSTEMD_ARCHIVE"

// ToolsVariable names, in the environment, a directory of what make builds of
// pinned tools, where the links in build/ of the source tree lead out of it.
const ToolsVariable = "KATA_TEST_TOOLS"

// Build makes the program of a package, by its import path, without cgo, and
// writes it to path, whose directory is made as needed. Flags are go build's.
func Build(ctx context.Context, path, importPath string, flags ...string) error {
	return BuildFor(ctx, runtime.GOARCH, path, importPath, flags...)
}

// BuildFor is Build for an architecture that this machine's processor runs, too, in Go's
// name of it. What was compiled before is of this machine's alone.
func BuildFor(ctx context.Context, arch, path, importPath string, flags ...string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make %s: %w", importPath, err)
	}
	if compiled := os.Getenv(DirectoryVariable); compiled != "" && arch == runtime.GOARCH {
		return install(filepath.Join(compiled, importPath), path)
	}
	args := slices.Concat([]string{"build", "-trimpath", "-ldflags", "-s -w"}, flags, []string{"-o", path, importPath})
	build := exec.CommandContext(ctx, "go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", importPath, err, output)
	}
	return nil
}

func install(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("take a compiled program: %w (the lab's list of programs names those that it compiles)", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("take a compiled program: %w", err)
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return fmt.Errorf("take the compiled program %s: %w", from, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("take the compiled program %s: %w", from, err)
	}
	return nil
}
