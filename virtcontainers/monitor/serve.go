package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/store"
)

const (
	// requestTimeout bounds how long a command takes to say what it wants, and to
	// take an answer.
	requestTimeout = 5 * time.Second
	// guestTimeout bounds how long the guest takes for its figures. It is less
	// than MeasureTimeout: the host's own figures are told in time.
	guestTimeout = 3 * time.Second
	// restSilence bounds how long the guest says nothing more of a process's output,
	// once the process has ended.
	restSilence = 10 * time.Second
	// maxConnections bounds how many are served at a time.
	maxConnections = 32
	// maxSamples is how many go into a message, which has room for more.
	maxSamples = 256
)

// Sandbox is the pod, as *virtcontainers.Sandbox.
type Sandbox interface {
	metrics.Sandbox
	ExecGuest(ctx context.Context, options virtcontainers.ExecOptions) (*virtcontainers.Process, error)
}

// Owner is this process, which owns the pod.
type Owner struct {
	// Role is what it is called.
	Role string
	// StandIns tells which processes stand for containers, by their ids, and what
	// they are called.
	StandIns func() map[int]string
}

// Server serves a pod's socket.
type Server struct {
	sandbox    Sandbox
	owner      Owner
	log        *slog.Logger
	silence    time.Duration // restSilence
	listener   net.Listener
	slots      chan struct{} // one for each connection that may be served
	measuring  chan struct{} // held by who asks the guest: one at a time
	ending     chan struct{} // closed by Close
	background sync.WaitGroup
	once       sync.Once
}

// Serve serves the socket of a pod, in its directory, until Close.
func Serve(entry *store.Entry, sandbox Sandbox, owner Owner, log *slog.Logger) (*Server, error) {
	return serve(entry, sandbox, owner, restSilence, log)
}

func serve(entry *store.Entry, sandbox Sandbox, owner Owner, silence time.Duration, log *slog.Logger) (*Server, error) {
	socket, err := entry.Listen(socketName, network)
	if err != nil {
		return nil, fmt.Errorf("serve the pod's monitor: %w", err)
	}
	s := &Server{
		sandbox: sandbox, owner: owner, log: log, silence: silence,
		listener: accept.Patiently(accept.Peers{UnixListener: socket, Log: log}, log),
		slots:    make(chan struct{}, maxConnections), measuring: make(chan struct{}, 1), ending: make(chan struct{}),
	}
	s.background.Go(s.accept)
	return s, nil
}

// Close ends every connection, with its process, and waits for that. Idempotent.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.ending)
		s.listener.Close()
	})
	s.background.Wait()
}

func (s *Server) accept() {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ending:
			return
		}
		accepted, err := s.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.log.Error("the pod's monitor is served no more", "error", err)
			}
			return
		}
		conn, ok := accepted.(*net.UnixConn)
		if !ok { // never
			accepted.Close()
			<-s.slots
			continue
		}
		s.background.Go(func() {
			defer func() { <-s.slots }()
			if err := s.serve(channel.FromConn(conn)); err != nil {
				s.log.Debug("a connection of the pod's monitor ended", "error", err)
			}
		})
	}
}

// serve answers one connection.
func (s *Server) serve(conn *channel.Conn) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan struct{})
	defer close(served)
	s.background.Go(func() {
		select {
		case <-s.ending:
			cancel()
			conn.Close()
		case <-served:
		}
	})
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	var r request
	files, err := conn.Receive(&r)
	defer closeAll(files)
	if err != nil {
		return err
	}
	switch {
	case r.Metrics:
		return s.measure(ctx, conn)
	case r.Processes:
		return s.processes(conn)
	case r.Exec != nil:
		if err := conn.SetDeadline(time.Time{}); err != nil {
			return err
		}
		return s.exec(ctx, conn, r.Exec, files)
	default:
		return conn.Send(answer{Error: "the pod's owner does not know this request: it is of another version than the command"})
	}
}

// measure tells the pod's figures.
func (s *Server) measure(ctx context.Context, conn *channel.Conn) error {
	samples, err := s.collect(ctx)
	if err != nil {
		s.log.Debug("the guest tells no figures", "error", err)
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	for {
		n := min(len(samples), maxSamples)
		if err := conn.Send(answer{Samples: samples[:n], More: n < len(samples)}); err != nil {
			return err
		}
		if samples = samples[n:]; len(samples) == 0 {
			return nil
		}
	}
}

func (s *Server) collect(ctx context.Context) ([]metrics.Sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, guestTimeout, fmt.Errorf("the guest did not answer within %v", guestTimeout))
	defer cancel()
	select {
	case s.measuring <- struct{}{}:
		defer func() { <-s.measuring }()
	case <-ctx.Done(): // collected without the guest
	}
	return metrics.Collect(ctx, s.sandbox)
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
