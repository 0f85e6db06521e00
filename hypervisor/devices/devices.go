// Package devices knows the devices of a machine that processes of their own serve, and
// the program that they are.
package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"kata-runtime/hypervisor/fileserver"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/vsock"
)

// Program is the name of the program that serves devices and does nothing else. It is
// beside those that make machines. Each process of a pod that is it, rather than the
// whole runtime, takes less memory, and less time to start.
const Program = "kata-device"

// Run is the whole life of a process that serves a device. It returns the exit status.
// args follow backend.Command. The process may also be one that serves no device, but
// others with what it has by a socket alone: those are by the names of their roles.
func Run(args []string, others map[string]Other) int {
	roles := map[string]backend.Role{vsock.Role: vsock.Serve, fileserver.Role: fileserver.Serve}
	for name, serve := range others {
		roles[name] = func(_ context.Context, in *backend.Inherited) error { return serve(in.VMM, in.Log) }
	}
	return backend.Run(args, roles)
}

// Other serves the process that has started this one, by a socket, until it hangs up.
type Other func(conn *net.UnixConn, log *slog.Logger) error

// Find returns the path of Program beside this one, or an empty string where this one is
// to play that part too: where there is none, as in a checkout of which one program was
// built, and where this one was replaced since it began. What is there then may be of
// another version, and what the two tell each other is their own affair.
func Find() (string, error) { return find("/proc/self/exe") }

// find takes the link to this program, which leads to it even when it has no name.
func find(self string) (string, error) {
	name, err := os.Readlink(self)
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	running, err := os.Stat(self)
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	if installed, err := os.Stat(name); err != nil || !os.SameFile(running, installed) {
		return "", nil //nolint:nilerr // replaced, or removed
	}
	program := filepath.Join(filepath.Dir(name), Program)
	switch info, err := os.Stat(program); {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("find %s: %w", Program, err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("find %s: %s is no file", Program, program)
	}
	return program, nil
}
