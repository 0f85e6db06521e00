package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/console"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/monitor"
)

// guestFlag lets exec run a program in the guest itself.
const guestFlag = "guest"

// guestShell is what runs without a command.
const guestShell = "/bin/sh"

// execGuest runs a program in the guest of a pod, whichever front end's.
func execGuest(c *cli.Context) (int, error) {
	for _, flag := range c.LocalFlagNames() {
		if !slices.Contains([]string{guestFlag, "tty", "t", "cwd", "env", "e", "state-dir"}, flag) {
			return 0, fmt.Errorf("--%s has no meaning with --guest, which knows no container", flag)
		}
	}
	stores, err := openStores(c)
	if err != nil {
		return 0, err
	}
	pod, err := findMonitored(stores, c.Args().First())
	if err != nil {
		return 0, err
	}
	process := guestProcess(c)
	options := monitor.ExecOptions{Process: process, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if process.Terminal {
		sizes, restore, err := takeTerminal()
		if err != nil {
			return 0, err
		}
		defer restore()
		options.Sizes = sizes
		adoptSize(process)
	}
	code, err := monitor.Exec(c.Context, pod.entry, options)
	switch {
	case errors.Is(err, virtcontainers.ErrNoGuestExec):
		err = fmt.Errorf("%w: set %s = true in the table [agent.kata] of the configuration; it counts for pods that start from then on",
			err, config.DebugConsoleKey)
	case err != nil && process.Args[0] == guestShell && strings.Contains(err.Error(), "has no program"):
		err = fmt.Errorf("%w: make an image with a shell (make image BUSYBOX=/bin/busybox), or name a program that the guest has", err)
	}
	return code, err
}

// guestProcess is what the flags and the arguments describe.
func guestProcess(c *cli.Context) *specs.Process {
	args := c.Args().Slice()[1:]
	if len(args) == 0 {
		args = []string{guestShell}
	}
	env := []string{"HOME=/", "PATH=/bin:/sbin:/usr/bin:/usr/sbin"}
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	return &specs.Process{
		Args: args, Env: append(env, c.StringSlice("env")...), Cwd: c.String("cwd"),
		Terminal: c.Bool("tty") || isTerminal(os.Stdin),
	}
}

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// takeTerminal makes the command's own terminal, if it has one, pass everything on
// until restore, and tells of each change of its size.
func takeTerminal() (sizes <-chan specs.Box, restore func(), err error) {
	if !isTerminal(os.Stdin) {
		return nil, func() {}, nil
	}
	terminal, err := console.ConsoleFromFile(os.Stdin)
	if err != nil {
		return nil, nil, fmt.Errorf("use the terminal: %w", err)
	}
	if err := setRaw(terminal); err != nil {
		return nil, nil, errors.Join(err, terminal.Reset())
	}
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	told := make(chan specs.Box)
	go func() {
		defer close(told)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			size, err := unix.IoctlGetWinsize(unix.Stdin, unix.TIOCGWINSZ)
			if err != nil {
				continue
			}
			select {
			case told <- specs.Box{Height: uint(size.Row), Width: uint(size.Col)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return told, func() {
		cancel()
		signal.Stop(changed)
		_ = terminal.Reset() // nothing is left to be done when this fails
	}, nil
}
