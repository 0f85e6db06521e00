package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
)

// bench is one run of the program: a scratch directory and what was learnt.
type bench struct {
	dir     string // scratch
	program string // bin/kata-runtime
	machine []string
	count   int // containers so far, for their ids
}

func newBench() (*bench, error) {
	program, err := filepath.Abs(filepath.Join("bin", "kata-runtime"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kata-bench-")
	if err != nil {
		return nil, err
	}
	return &bench{dir: dir, program: program}, nil
}

func (b *bench) close() { os.RemoveAll(b.dir) }

// bundle makes a bundle that runs args.
func (b *bench) bundle(args ...string) (string, error) {
	return b.bundleOf(bundle.Spec(args...))
}

func (b *bench) bundleOf(spec *specs.Spec) (string, error) {
	dir, err := os.MkdirTemp(b.dir, "bundle-")
	if err != nil {
		return "", err
	}
	return dir, bundle.Write(dir, spec)
}

// id returns a new container id.
func (b *bench) id() string {
	b.count++
	return fmt.Sprintf("bench%d-%d", os.Getpid(), b.count)
}

// runtime prepares a command of one of the two runtimes.
type runtime func(ctx context.Context, args ...string) *exec.Cmd

// kata prepares a command of the runtime under test.
func (b *bench) kata(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, b.program, append([]string{"--root", filepath.Join(b.dir, "kata")}, args...)...)
}

// runc prepares a command of the runtime to compare with.
func (b *bench) runc(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "runc", append([]string{"--root", filepath.Join(b.dir, "runc")}, args...)...)
}

// timed runs a command that has to succeed and returns how long it took.
func timed(command *exec.Cmd) (time.Duration, error) {
	begin := time.Now()
	_, err := output(command)
	return time.Since(begin), err
}

// output runs a command that has to succeed and returns its standard output.
func output(command *exec.Cmd) (string, error) {
	text, err := command.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("%s: %w: %s", command, err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	return string(text), nil
}

// median returns the middle value, and the smallest and largest.
func median[T int64 | float64 | time.Duration](values []T) (middle, low, high T) {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1]
}
