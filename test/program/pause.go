package program

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed testdata/pause.c
var pauseSource string

// pausePath is where Pause's program is among those that were compiled before.
const pausePath = "pause"

// Pause makes the program of a pod's sandbox container, which does what that of
// Kubernetes' pause image does, and writes it to path. It is in C, as that one: a
// Go program takes much longer to start.
func Pause(ctx context.Context, path string) error {
	if compiled := os.Getenv(DirectoryVariable); compiled != "" {
		return install(filepath.Join(compiled, pausePath), path)
	}
	return compilePause(ctx, path)
}

// PauseInto compiles Pause's program into what DirectoryVariable is to name.
func PauseInto(ctx context.Context, directory string) error {
	return compilePause(ctx, filepath.Join(directory, pausePath))
}

func compilePause(ctx context.Context, path string) error {
	cc := exec.CommandContext(ctx, "gcc", "-static", "-Os", "-s", "-x", "c", "-o", path, "-")
	cc.Stdin = strings.NewReader(pauseSource)
	if output, err := cc.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the pause program: %w\n%s", err, output)
	}
	return nil
}
