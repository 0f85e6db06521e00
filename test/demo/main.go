// Command demo shows what the runtime does, in one run of one container: it
// makes a busybox bundle, runs it with bin/kata-runtime, and prints the host's
// and the guest's kernel side by side. `make demo` builds everything it needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
)

const script = `
echo "  kernel       $(uname -r)"
echo "  host name    $(hostname)"
echo "  processes    $(ps | tail -n +2 | wc -l) visible, this one has PID $$"
echo "  memory       $(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo) MiB, CPUs $(nproc)"
echo "  root         $(awk '$2 == "/" {print $3; exit}' /proc/mounts)"
`

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run returns the container's exit code.
func run() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp("", "kata-demo-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := bundle.Write(dir, spec()); err != nil {
		return 0, err
	}
	program, err := filepath.Abs("bin/kata-runtime")
	if err != nil {
		return 0, err
	}
	release, err := kernelRelease()
	if err != nil {
		return 0, err
	}

	arguments := []string{"--root", filepath.Join(dir, "state"), "run", "-b", dir, "demo"}
	fmt.Printf("host\n  kernel       %s\n\n$ kata-runtime %s\n", release, strings.Join(arguments, " "))
	started := time.Now()
	command := exec.CommandContext(ctx, program, arguments...)
	command.Cancel = func() error { return command.Process.Signal(unix.SIGTERM) }
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		return 0, fmt.Errorf("run the container: %w", err)
	}
	code := command.ProcessState.ExitCode()
	fmt.Printf("\nThe container ended with exit code %d after %.1f s, its VM included.\n", code, time.Since(started).Seconds())
	return code, nil
}

func spec() *specs.Spec {
	spec := bundle.Spec("/bin/sh", "-c", "echo guest"+script)
	spec.Hostname = "demo"
	return spec
}

func kernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}
