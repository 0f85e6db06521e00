package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inherited is what a role gets from the process that started it.
type Inherited struct {
	// VMM is the vhost-user connection, for vhostuser.NewServer.
	VMM *net.UnixConn
	// Files are those of Options, in their order.
	Files []*os.File
	// Settings are those of Options.
	Settings json.RawMessage
	// Log reaches the log of the process that started this one.
	Log *slog.Logger
}

// Role serves a device for as long as there is a VMM. Its return ends the process.
type Role func(ctx context.Context, in *Inherited) error

// firstInherited is the descriptor of the VMM's connection: the first of os/exec's
// ExtraFiles.
const firstInherited = 3

var (
	errArguments = errors.New("want one argument")
	errRole      = errors.New("there is no such device")
)

// Run is the process's whole life. It returns the exit status; an error is on
// standard error then. args follow Command.
func Run(args []string, roles map[string]Role) int {
	if err := run(args, roles); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(args []string, roles map[string]Role) error {
	// Guest memory is not for others of this user, nor for dumps.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid dumps: %w", err)
	}
	if len(args) != 1 {
		return errArguments
	}
	var a arguments
	if err := json.Unmarshal([]byte(args[0]), &a); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	// Nothing depends on the name, which is what ps and top show.
	name := append([]byte("kata-"+a.Role), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	role := roles[a.Role]
	if role == nil {
		return fmt.Errorf("%q: %w", a.Role, errRole)
	}
	in := &Inherited{Settings: a.Settings, Log: logTo(os.Stderr, a.Debug)}
	var err error
	if in.VMM, err = connection(firstInherited); err != nil {
		return fmt.Errorf("the VMM's connection: %w", err)
	}
	for i := range a.Files {
		fd := firstInherited + 1 + i
		unix.CloseOnExec(fd)
		in.Files = append(in.Files, os.NewFile(uintptr(fd), "inherited"))
	}
	return role(context.Background(), in)
}

// connection makes a descriptor, which it closes, a connection.
func connection(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "vhost-user")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("is a %T", conn), conn.Close())
	}
	return unixConn, nil
}
