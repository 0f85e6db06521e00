package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/refused"
)

// bench is one run of the program: a scratch directory and what was learnt.
type bench struct {
	dir     string // scratch
	program string // bin/kata-runtime
	machine []string
	count   int // containers so far, for their ids
	// config is the configuration that is in effect, with a line in the kernel's log for
	// each system call that a confined process is refused, which refused reads.
	config  string
	refused *refused.Log
}

func newBench(ctx context.Context) (*bench, error) {
	program, err := filepath.Abs(filepath.Join("bin", "kata-runtime"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kata-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, program: program}
	if err := b.watch(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return b, nil
}

// watch lets the kernel log what confined processes are refused from now on: work at
// full speed makes calls that no test makes.
func (b *bench) watch(ctx context.Context) error {
	text, err := output(b.kata(ctx, "env"))
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "logged.toml")
	text = strings.Replace(text, "log_refused_calls = false", "log_refused_calls = true", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	b.config = path
	b.refused, err = refused.Open()
	return err
}

// close says which calls were refused that are on no list.
func (b *bench) close() error {
	calls, err := b.refused.Calls()
	for _, call := range refused.Unlisted(calls, filepath.Dir(b.program)) {
		err = errors.Join(err, fmt.Errorf("a confined process was refused what it needs: %s", call))
	}
	return errors.Join(err, b.refused.Close(), os.RemoveAll(b.dir))
}

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
	flags := []string{"--root", filepath.Join(b.dir, "kata")}
	if b.config != "" {
		flags = append(flags, "--config", b.config) // another one in args counts instead
	}
	return exec.CommandContext(ctx, b.program, append(flags, args...)...)
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
