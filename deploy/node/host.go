package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"strings"
	"syscall"
)

// Runner runs a program of the node, named by its path there, in the node's root
// directory, and returns its standard output.
type Runner func(ctx context.Context, program string, args ...string) ([]byte, error)

// runIn is a Runner for a node whose root directory is root.
func runIn(root string) Runner {
	return func(ctx context.Context, program string, args ...string) ([]byte, error) {
		command := exec.CommandContext(ctx, program, args...) //nolint:gosec // a program of the node, run for its owner
		command.Dir = "/"
		command.Env = []string{"PATH=" + strings.Join(programDirs(), ":"), "LC_ALL=C"}
		if root != "/" {
			command.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		}
		var stdout, stderr bytes.Buffer
		command.Stdout, command.Stderr = &stdout, &stderr
		if err := command.Run(); err != nil {
			detail := strings.TrimSpace(stderr.String() + stdout.String())
			return stdout.Bytes(), fmt.Errorf("run `%s` on the node: %w: %s", strings.Join(append([]string{program}, args...), " "), err, detail)
		}
		return stdout.Bytes(), nil
	}
}

// programDirs is where a service manager looks for programs.
func programDirs() []string {
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// supervisorName is what a supervisor calls itself.
const supervisorName = "kata-supervisor"

// find returns the path of a program of the node, "" when it has none.
func (t tree) find(program string) (string, error) {
	for _, dir := range programDirs() {
		name := path.Join(dir, program)
		found, err := t.exists(name)
		if err != nil {
			return "", err
		}
		if found {
			return name, nil
		}
	}
	return "", nil
}

// runningPods counts the processes that have a pod's machine: supervisors, and
// shims.
func (t tree) runningPods() (int, error) {
	if found, err := t.exists("/proc/1/comm"); err != nil || !found {
		return 0, errors.Join(err, errors.New("the node's /proc is not in its root directory as given: running pods could not be seen"))
	}
	names, err := fs.Glob(t.root.FS(), "proc/[0-9]*/cmdline")
	if err != nil {
		return 0, fmt.Errorf("list the node's processes: %w", err)
	}
	count := 0
	for _, name := range names {
		// Processes end while they are looked at.
		command, _ := t.root.ReadFile(name)
		comm, _ := t.root.ReadFile(path.Join(path.Dir(name), "comm"))
		program, _, _ := strings.Cut(string(command), "\x00")
		if strings.TrimSpace(string(comm)) == supervisorName || path.Base(program) == shimProgram {
			count++
		}
	}
	return count, nil
}
