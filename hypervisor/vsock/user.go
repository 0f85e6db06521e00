package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/vsock/control"
)

const (
	// userCID is the CID of every guest with a device of ours: nobody else sees it.
	userCID = 3
	// hostCID is the host's, for every guest.
	hostCID = vsock.Host

	// sendTimeout bounds how long the process may leave a request lying about, those
	// before it included.
	sendTimeout = 10 * time.Second
	// cancelTimeout is that of a request which is given up. The process sees it by the
	// end of the connection too.
	cancelTimeout = time.Second
	// maxPending is how many requests it may have to answer, those of callers who
	// have given up included.
	maxPending = 8 << 10
)

var (
	errProcess = fmt.Errorf("the process of the vsock device has ended: %w", syscall.ECONNRESET)
	errAnswer  = errors.New("answer to a question that nobody asked")
)

// user is a Host whose device a process of its own serves. What comes from there is
// not trusted: the guest may have taken it over.
type user struct {
	process *backend.Process
	control *net.UnixConn
	log     *slog.Logger
	reading sync.WaitGroup

	sending  chan struct{} // has room for who sends a message
	patience time.Duration // sendTimeout, but in tests

	mu        sync.Mutex // guards the fields below
	err       error      // why the device has ended
	last      uint64     // ID of the last request
	pending   map[uint64]chan<- control.Message
	conns     map[*userConn]struct{}
	listeners map[uint32]*userListener
}

func openUser(ctx context.Context, o Options) (Host, error) {
	u, err := startUser(ctx, o, Role, nil)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// startUser starts the process in a role.
func startUser(ctx context.Context, o Options, role string, settings any) (*user, error) {
	conn, theirs, err := control.Pair()
	if err != nil {
		return nil, fmt.Errorf("vsock device: %w", err)
	}
	defer theirs.Close()
	process, err := backend.Start(ctx, backend.Options{
		Program: o.Program, Role: role, Settings: settings, Files: []*os.File{theirs}, Jail: confinement(o.Jail), Starter: o.Starter, Log: o.Log,
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	u := &user{
		process: process, control: conn, log: o.Log, sending: make(chan struct{}, 1), patience: sendTimeout,
		pending: make(map[uint64]chan<- control.Message), conns: make(map[*userConn]struct{}),
		listeners: make(map[uint32]*userListener),
	}
	u.reading.Go(u.read)
	return u, nil
}

// read takes what the process says until it ends.
func (u *user) read() {
	for {
		m, err := control.ReceiveAnswer(u.control)
		if err == nil {
			err = u.obey(m)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			err = errProcess
		case errors.Is(err, net.ErrClosed): // by Close
		default:
			err = fmt.Errorf("the process of the vsock device: %w", err)
			u.log.LogAttrs(context.Background(), slog.LevelError, "the process of the vsock device sends what makes no sense and is ended", slog.Any("error", err))
			u.process.Kill()
		}
		u.fail(err)
		return
	}
}

func (u *user) obey(m control.Message) error {
	switch m.Kind {
	case control.Connected:
		// The VMM has its own duplicate: with this one closed, its end is the end of
		// the connection.
		_ = u.process.Socket().Close()
		return nil
	case control.Failed:
		u.fail(fmt.Errorf("the vsock device has ended: %w", errnoOf(m)))
		return nil
	default: // Answer: ReceiveAnswer lets no others through
	}
	u.mu.Lock()
	answer, asked := u.pending[m.ID]
	delete(u.pending, m.ID)
	u.mu.Unlock()
	if !asked {
		if u.hasEnded() { // and was given up then
			return nil
		}
		return fmt.Errorf("%d: %w", m.ID, errAnswer)
	}
	answer <- m // has room for the one
	return nil
}

// errnoOf returns a message's error.
func errnoOf(m control.Message) error {
	if m.Errno == 0 {
		return syscall.EPROTO
	}
	return m.Errno
}

// fail ends the device for everybody. Only the first call counts.
func (u *user) fail(err error) {
	u.mu.Lock()
	if u.err != nil {
		u.mu.Unlock()
		return
	}
	u.err = err
	listeners := u.listeners
	u.listeners = nil
	for id, answer := range u.pending {
		delete(u.pending, id)
		close(answer)
	}
	u.mu.Unlock()
	// To a listener, whatever ends its device closes it.
	if !errors.Is(err, net.ErrClosed) {
		err = fmt.Errorf("%w: %w", net.ErrClosed, err)
	}
	for _, l := range listeners {
		l.end(err)
	}
}

// failure says why the device has ended, if it has.
func (u *user) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

func (u *user) hasEnded() bool { return u.failure() != nil }

// send sends a message to the process, until its patience or ctx ends.
func (u *user) send(ctx context.Context, m control.Message, file *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, u.patience, os.ErrDeadlineExceeded)
	defer cancel()
	err := u.sendInTurn(ctx, m, file)
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		// Nobody is there who would take it. What was said before is read first: it
		// may be why.
		_ = u.control.CloseRead()
		u.reading.Wait()
	}
	if failed := u.failure(); failed != nil {
		return failed
	}
	return fmt.Errorf("ask the process of the vsock device: %w", err)
}

func (u *user) sendInTurn(ctx context.Context, m control.Message, file *os.File) error {
	// All who wait for a process that takes nothing wait at the same time.
	select {
	case u.sending <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-u.sending }()
	if err := u.control.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		_ = u.control.SetWriteDeadline(time.Unix(1, 0))
	})
	err := control.Send(u.control, m, file)
	if !stop() {
		<-over // which would be the end of the next one
		if err != nil {
			err = context.Cause(ctx)
		}
	}
	return err
}

// ask sends a request with one end of a connection, and returns the other one and
// where the answer will be. It is closed without one when the device has ended.
func (u *user) ask(ctx context.Context, kind control.Kind, port uint32) (*net.UnixConn, uint64, <-chan control.Message, error) {
	conn, theirs, err := control.StreamPair()
	if err != nil {
		return nil, 0, nil, err
	}
	defer theirs.Close()
	answer := make(chan control.Message, 1)
	id, err := u.register(answer)
	if err == nil {
		if err = u.send(ctx, control.Message{Kind: kind, ID: id, Port: port}, theirs); err != nil {
			u.unregister(id)
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, 0, nil, err
	}
	return conn, id, answer, nil
}

func (u *user) register(answer chan<- control.Message) (uint64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.err != nil:
		return 0, u.err
	case len(u.pending) >= maxPending:
		return 0, fmt.Errorf("the vsock device leaves %d requests unanswered: %w", maxPending, syscall.ENOBUFS)
	}
	u.last++
	u.pending[u.last] = answer
	return u.last, nil
}

// unregister takes back a request that was not sent: there will be no answer.
func (u *user) unregister(id uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.pending, id)
}

func (u *user) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := u.dial(ctx, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: address(userCID, port), Err: err}
	}
	return conn, nil
}

func (u *user) dial(ctx context.Context, port uint32) (*userConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, id, answered, err := u.ask(ctx, control.Dial, port)
	if err != nil {
		return nil, err
	}
	select {
	case m, ok := <-answered:
		switch {
		case !ok:
			err = u.failure()
		case m.Errno != 0:
			err = m.Errno
		default:
			return u.track(conn, address(hostCID, m.Port), address(userCID, port))
		}
	case <-ctx.Done():
		err = ctx.Err()
		u.giveUp(ctx, id)
	}
	_ = conn.Close()
	return nil, err
}

// giveUp takes back a request that was sent, of whoever does not wait any more.
func (u *user) giveUp(ctx context.Context, id uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	_ = u.send(ctx, control.Message{Kind: control.Cancel, ID: id}, nil)
}

func (u *user) Listen(port uint32) (net.Listener, error) {
	l, err := u.listen(port)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: address(hostCID, port), Err: err}
	}
	return l, nil
}

func (u *user) listen(port uint32) (*userListener, error) {
	u.mu.Lock()
	err := u.err
	if err == nil && u.listeners[port] != nil {
		err = syscall.EADDRINUSE
	}
	if err != nil {
		u.mu.Unlock()
		return nil, err
	}
	l := &userListener{host: u, port: port, done: make(chan struct{})}
	u.listeners[port] = l
	u.mu.Unlock()
	if err := u.send(context.Background(), control.Message{Kind: control.Listen, Port: port}, nil); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (u *user) Device() *hypervisor.Vsock {
	return &hypervisor.Vsock{ID: DeviceID, CID: userCID, Backend: u.process.Socket()}
}

func (u *user) Kind() string { return string(ModeUser) }

func (u *user) Helper() *child.Helper { return u.process.Helper }

func (u *user) Close() error {
	u.fail(net.ErrClosed)
	u.mu.Lock()
	conns := u.conns
	u.conns = nil
	u.mu.Unlock()
	for c := range conns {
		_ = c.UnixConn.Close()
	}
	err := u.process.Stop()
	if closed := u.control.Close(); closed != nil && !errors.Is(closed, net.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("close the control of the vsock device: %w", closed))
	}
	u.reading.Wait()
	return err
}
