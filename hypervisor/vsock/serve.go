package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/vsock/control"
	"kata-runtime/hypervisor/vsock/device"
)

// Role is the name by which a program's backend.Run calls Serve.
const Role = "vsock"

const (
	// maxFiles is more than the connections of a device, each with its socket, and
	// what else the process has open.
	maxFiles = 4096
	// maxThreads is that of the pod's user, whose the VMM's threads are too.
	maxThreads = 2048
)

// confinement says what the process keeps: nothing of the host.
func confinement(o *jail.Options) *jail.Spec {
	if o == nil {
		return nil
	}
	return &jail.Spec{
		Namespaces: jail.Empty, Root: &jail.Root{}, User: o.User, MaxFiles: maxFiles, MaxThreads: maxThreads,
		SystemCalls: &jail.SystemCalls{Allowed: append(backend.SystemCalls(), unix.SYS_PPOLL), Log: o.LogCalls},
		Without:     o.Without,
	}
}

// server is what the process does: it takes the Host's requests.
type server struct {
	device  *device.Device
	control *net.UnixConn
	log     *slog.Logger
	working sync.WaitGroup

	sending sync.Mutex // held while a message is sent
	end     sync.Once  // the Host is told of the device's end

	mu        sync.Mutex // guards the fields below
	listeners map[uint32]*acceptor
	dials     map[uint64]context.CancelFunc
}

// acceptor is a port that is listened on.
type acceptor struct {
	*device.Listener
	requests chan accept
}

// accept is a request for the next connection.
type accept struct {
	id   uint64
	file *os.File
}

// Serve serves the vsock device of a guest, in a process of its own, until the Host
// closes its end or is gone. It implements backend.Role. That the VMM ends is not its
// end: what the guest has sent before is still read.
func Serve(ctx context.Context, in *backend.Inherited) error {
	if len(in.Files) != 1 {
		return fmt.Errorf("vsock device: %d descriptors, want 1", len(in.Files))
	}
	conn, err := control.Conn(in.Files[0])
	if err != nil {
		return err
	}
	dev := device.New(userCID, in.Log)
	s := &server{
		device: dev, control: conn, log: in.Log,
		listeners: make(map[uint32]*acceptor), dials: make(map[uint64]context.CancelFunc),
	}
	vmm := vhostuser.NewServer(in.VMM, dev, in.Log)
	s.working.Go(func() { s.serveVMM(vmm) })
	s.working.Go(func() { <-dev.Ended(); s.tellEnd() })
	ctx, cancel := context.WithCancel(ctx)
	err = s.serve(ctx)
	cancel()
	for _, port := range s.ports() {
		s.unlisten(port)
	}
	err = errors.Join(err, dev.Close(), vmm.Close())
	s.working.Wait()
	return err
}

// tellEnd tells the Host that the device has ended: also where it was the guest that
// broke it, while the VMM goes on. When it returns, the Host was told.
func (s *server) tellEnd() {
	s.end.Do(func() { s.send(control.Message{Kind: control.Failed, Errno: errnoFor(s.device.Err())}) })
}

// serveVMM answers the VMM until it or this process closes the connection.
func (s *server) serveVMM(vmm *vhostuser.Server) {
	err := vmm.Serve(func() { s.send(control.Message{Kind: control.Connected}) })
	switch {
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("VMM closed the vsock device: %w", syscall.ECONNRESET)
	case errors.Is(err, net.ErrClosed):
		err = net.ErrClosed
	default:
		s.log.LogAttrs(context.Background(), slog.LevelError, "vsock device ended", slog.Any("error", err))
		err = fmt.Errorf("vsock device: %w", err)
	}
	s.device.Fail(err)
}

// serve takes requests until the end of the connection.
func (s *server) serve(ctx context.Context) error {
	for {
		m, file, err := control.ReceiveRequest(s.control)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("take a request: %w", err)
		}
		s.obey(ctx, m, file)
	}
}

// obey carries out a request, or begins to: it never waits.
func (s *server) obey(ctx context.Context, m control.Message, file *os.File) {
	switch m.Kind {
	case control.Dial:
		ctx, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		s.dials[m.ID] = cancel
		s.mu.Unlock()
		s.working.Go(func() {
			s.dial(ctx, m, file)
			s.cancel(m.ID)
		})
	case control.Cancel:
		s.cancel(m.ID)
	case control.Listen:
		s.listen(m.Port)
	case control.Unlisten:
		s.unlisten(m.Port)
	case control.Accept:
		s.accept(m, file)
	default:
		// Decode has let no others through.
	}
}

func (s *server) cancel(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.dials[id]; cancel != nil {
		cancel()
		delete(s.dials, id)
	}
}

func (s *server) dial(ctx context.Context, m control.Message, file *os.File) {
	conn, err := s.device.DialConn(ctx, m.Port)
	if err != nil {
		_ = file.Close()
		s.answer(m.ID, 0, err)
		return
	}
	s.join(m.ID, conn, file, conn.LocalPort())
}

// join answers a request by connecting conn with a socket.
func (s *server) join(id uint64, conn *device.Conn, file *os.File, port uint32) {
	socket, err := control.Conn(file)
	if err != nil {
		_ = conn.Close()
		s.answer(id, 0, err)
		return
	}
	s.answer(id, port, nil)
	s.working.Go(func() { join(conn, socket) })
}

// listen takes connections from now on. Why it cannot, every Accept is told.
func (s *server) listen(port uint32) {
	l, err := s.device.Listen(port)
	if err != nil {
		s.log.LogAttrs(context.Background(), slog.LevelDebug, "listen", slog.Any("error", err))
		return
	}
	a := &acceptor{Listener: l, requests: make(chan accept, maxFiles)}
	s.mu.Lock()
	s.listeners[port] = a
	s.mu.Unlock()
	s.working.Go(func() { s.serveListener(a) })
}

// ports lists those that are listened on.
func (s *server) ports() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.listeners))
}

func (s *server) unlisten(port uint32) {
	s.mu.Lock()
	a := s.listeners[port]
	delete(s.listeners, port)
	s.mu.Unlock()
	if a != nil {
		close(a.requests)
		_ = a.Close()
	}
}

func (s *server) accept(m control.Message, file *os.File) {
	s.mu.Lock()
	a := s.listeners[m.Port]
	s.mu.Unlock()
	err := s.device.Err()
	if a != nil && err == nil {
		select {
		case a.requests <- accept{m.ID, file}:
			return
		default:
			err = syscall.ENOBUFS
		}
	}
	if err == nil {
		err = syscall.EINVAL
	}
	_ = file.Close()
	s.answer(m.ID, 0, err)
}

// serveListener gives each request a connection, in turn.
func (s *server) serveListener(a *acceptor) {
	for request := range a.requests {
		conn, err := a.AcceptConn()
		if err != nil {
			_ = request.file.Close()
			s.answer(request.id, 0, err)
			continue
		}
		s.join(request.id, conn, request.file, conn.RemotePort())
	}
}

func (s *server) answer(id uint64, port uint32, err error) {
	m := control.Message{Kind: control.Answer, ID: id, Port: port}
	if err != nil {
		m.Errno = errnoFor(err)
		if s.device.Err() != nil {
			s.tellEnd() // first: whoever waits is to hear that nothing more comes
		}
	}
	s.send(m)
}

// errnoFor returns the error's number.
func errnoFor(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && errno != 0:
		return errno
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return syscall.ECANCELED
	default:
		return syscall.EPROTO
	}
}

// send tells the Host. If it does not listen, the process's end is near.
func (s *server) send(m control.Message) {
	s.sending.Lock()
	defer s.sending.Unlock()
	if err := control.Send(s.control, m, nil); err != nil {
		s.log.LogAttrs(context.Background(), slog.LevelDebug, "tell the host", slog.Any("error", err))
	}
}
