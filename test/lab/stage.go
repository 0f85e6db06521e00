package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"kata-runtime/test/lab/internal/wire"
	"kata-runtime/test/program"
)

// stage fills the directory that the machine sees with what it needs for these
// sets: the plan, and each program.
func stage(ctx context.Context, dir, tree string, chosen []set) error {
	if err := program.Build(ctx, filepath.Join(dir, wire.Inside), "kata-runtime/test/lab/internal/inside"); err != nil {
		return err
	}
	for _, path := range programs() {
		if err := program.Build(ctx, filepath.Join(dir, wire.Programs, path), path); err != nil {
			return err
		}
	}
	if err := program.PauseInto(ctx, filepath.Join(dir, wire.Programs)); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(tree, "build", wire.Systemd), filepath.Join(dir, wire.Systemd)); err != nil {
		return err
	}
	plan := wire.Plan{Tree: tree}
	if err := copyTools(filepath.Join(dir, wire.Tools), tree, chosen); err != nil {
		return err
	}
	compiled := map[string]bool{}
	for _, s := range chosen {
		name := strings.ReplaceAll(s.pkg, "/", "-") + ".test"
		if !compiled[name] {
			if err := compile(ctx, filepath.Join(dir, name), "./"+s.pkg); err != nil {
				return err
			}
			compiled[name] = true
		}
		plan.Runs = append(plan.Runs, wire.Run{
			Name: s.name, Program: name, Args: s.args(), Directory: filepath.Join(tree, s.pkg),
			Env: append([]string{
				program.DirectoryVariable + "=" + filepath.Join(wire.Mounted, wire.Programs),
				program.SystemdVariable + "=" + filepath.Join(wire.Mounted, wire.Systemd),
				program.ToolsVariable + "=" + filepath.Join(wire.Mounted, wire.Tools),
			}, s.env...),
		})
	}
	text, err := json.MarshalIndent(plan, "", "\t")
	if err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, wire.PlanFile), text, 0o644)
}

// copyTools copies the tools of these sets, which lie in the cache.
func copyTools(dir, tree string, chosen []set) error {
	copied := map[string]bool{}
	for _, s := range chosen {
		for _, name := range s.tools {
			if copied[name] {
				continue
			}
			copied[name] = true
			target, err := filepath.EvalSymlinks(filepath.Join(tree, "build", name))
			if err != nil {
				return fmt.Errorf("find what the set %s runs: %w: run make %s first", s.name, err, name)
			}
			if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(target)); err != nil {
				return fmt.Errorf("show %s to the machine: %w", name, err)
			}
		}
	}
	return nil
}

// copyFile copies a file that lies in the cache; the tests that need a missing one say
// so.
func copyFile(from, to string) error {
	source, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("show %s to the machine: %w", from, err)
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("show %s to the machine: %w", from, err)
	}
	if _, err := io.Copy(target, source); err != nil {
		return errors.Join(fmt.Errorf("show %s to the machine: %w", from, err), target.Close())
	}
	return target.Close()
}

func compile(ctx context.Context, path, pkg string) error {
	command := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-tags", tags, "-o", path, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the tests of %s: %w\n%s", pkg, err, output)
	}
	return nil
}
