package fileserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/virtio/vhostuser"
)

// Command is the hidden first argument under which a program calls Run.
const Command = "file-server"

// socketFD is the first of os/exec's ExtraFiles in the child.
const socketFD = 3

// settings is what the server is told.
type settings struct {
	// Root is the directory to serve.
	Root string `json:"root"`
	// Cache is how long the guest may keep what it read.
	Cache string `json:"cache"`
	// MaxFiles is the limit of open files to set; 0: as it is.
	MaxFiles uint64 `json:"maxFiles,omitempty"`
	// Count has the requests counted on standard error at the end.
	Count bool `json:"count,omitempty"`
}

// Run is the server's process: it serves the VMM at the other end of its socket
// until that hangs up. It returns an exit status. args follow Command.
func Run(args []string) int {
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func run(args []string) error {
	tune()
	var s settings
	if len(args) != 1 {
		return errors.New("want one argument")
	}
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if s.MaxFiles > 0 {
		raiseFiles(s.MaxFiles)
	}
	socket := os.NewFile(socketFD, "vhost-user")
	conn, err := net.FileConn(socket)
	_ = socket.Close()
	if err != nil {
		return fmt.Errorf("take the connection to the VMM: %w", err)
	}
	vmm, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("the connection to the VMM is a %T", conn)
	}
	root, err := os.OpenFile(s.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the shared directory: %w", err)
	}
	files, options, err := open(root, s)
	if err != nil {
		return err
	}
	session := newSession(files, options)
	err = serve(vmm, session)
	if s.Count {
		session.report(os.Stderr)
	}
	return err
}

// tune keeps the process small: it has few objects of its own.
func tune() {
	// For ps and top.
	if name, err := unix.BytePtrFromString(Name); err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
	unix.Umask(0)
	log.SetOutput(io.Discard) // go-fuse tells there what a guest does wrong
	debug.SetGCPercent(gcPercent)
	// More threads would take turns in waiting rather than in working.
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))
}

const (
	gcPercent = 50
	maxProcs  = 4
)

// raiseFiles sets the limit of open files as near to wanted as may be. The jail has
// done so already.
func raiseFiles(wanted uint64) {
	var limit syscall.Rlimit
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: wanted, Max: wanted}) == nil {
		return
	}
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit.Max, Max: limit.Max})
	}
}

// serve returns nil when the VMM has hung up.
func serve(vmm *net.UnixConn, s *session) error {
	broken := make(chan error, 1)
	var server *vhostuser.Server
	device := newDevice(s, func(err error) {
		broken <- err
		_ = server.Close()
	})
	server = vhostuser.NewServer(vmm, device, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	err := server.Serve(nil)
	device.close()
	select {
	case err = <-broken:
		return fmt.Errorf("the guest's file system driver broke the protocol: %w", err)
	default:
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return fmt.Errorf("serve the VMM: %w", err)
}

// report writes how often each request came.
func (s *session) report(w io.Writer) {
	for opcode := range s.requests {
		if n := s.requests[opcode].Load(); n > 0 {
			fmt.Fprintf(w, "requests %d %d\n", opcode, n)
		}
	}
}
