package fileserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/virtio/vhostuser"
)

// garbagePercent is how much garbage there may be, of what is in use: requests make
// little, so that the memory is worth more than the collector's time.
const garbagePercent = 40

// Serve is the backend.Role of the server's process: it serves the VMM until that
// hangs up.
func Serve(_ context.Context, in *backend.Inherited) error {
	log.SetOutput(io.Discard) // go-fuse tells there what a guest does wrong
	runtime.GOMAXPROCS(calmProcs)
	debug.SetGCPercent(garbagePercent)
	var s settings
	if err := json.Unmarshal(in.Settings, &s); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	raiseFiles()
	root, err := os.OpenFile(s.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the shared directory: %w", err)
	}
	defer root.Close()
	options, err := s.options()
	if err != nil {
		return err
	}
	options.Logger = in.Log
	files, err := passthrough.New(root, options)
	if err != nil {
		return err
	}
	session := newSession(files, *files.MountOptions())
	if s.Count {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGUSR1)
		go func() {
			for range asked {
				session.report(in.Log)
			}
		}()
	}
	err = serve(in.VMM, session, in.Log)
	return errors.Join(err, files.Close())
}

// raiseFiles sets the limit of open files as high as it may be. The jail has done so
// already.
func raiseFiles() {
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: wantedDescriptors, Max: wantedDescriptors}) == nil {
		return
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit.Max, Max: limit.Max})
	}
}

// serve returns nil when the VMM has hung up.
func serve(vmm *net.UnixConn, s *session, log *slog.Logger) error {
	broken := make(chan error, 1)
	var server *vhostuser.Server
	device := newDevice(s, func(err error) {
		broken <- err
		_ = server.Close()
	})
	server = vhostuser.NewServer(vmm, device, log)
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

// report logs how often each request has come, by the numbers of linux/fuse.h.
func (s *session) report(log *slog.Logger) {
	var text strings.Builder
	for opcode := range s.requests {
		if n := s.requests[opcode].Load(); n > 0 {
			fmt.Fprintf(&text, " %d:%d", opcode, n)
		}
	}
	log.Info("requests", "counts", text.String()[min(text.Len(), 1):])
}

// reset lets the file system forget what a guest knew that has started again.
func (s *session) reset() { s.files.OnUnmount() }

// syncer is a file system that can be written to its disk, which go-fuse does not ask
// for.
type syncer interface {
	SyncFS(node uint64) fuse.Status
}
