package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"kata-runtime/guest/protocol"
)

const (
	// maxParked bounds the connections that wait for their process. A host
	// connects at most three and then makes the process: more than this many
	// are left over from calls that never came.
	maxParked = 256
	// headerTimeout bounds how long a connection may take to send its header.
	headerTimeout = 30 * time.Second
)

// ErrNotConnected is wrapped by Claim's error when the host did not connect the
// stream.
var ErrNotConnected = errors.New("stream is not connected")

// Registry holds accepted stream connections until they are claimed. Make it
// with NewRegistry; its methods may be called from any goroutine.
type Registry struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	parked map[protocol.StreamHeader]net.Conn
	order  []protocol.StreamHeader // oldest first; may name claimed ones
}

// NewRegistry returns an empty registry.
func NewRegistry(log *slog.Logger) *Registry {
	return &Registry{log: log, parked: map[protocol.StreamHeader]net.Conn{}}
}

// Serve accepts connections from l until ctx ends, l is closed or fails; it
// then closes what is parked and returns. A second connection for a parked
// stream replaces the first: the host gave that one up.
func (r *Registry) Serve(ctx context.Context, l net.Listener) error {
	var handlers sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		stop()
		cancel()
		handlers.Wait()
		r.closeParked()
	}()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		handlers.Go(func() { r.admit(ctx, conn) })
	}
}

// admit reads the header of conn, parks it and tells the host so.
func (r *Registry) admit(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err := conn.SetDeadline(time.Now().Add(headerTimeout))
	if err == nil {
		var header protocol.StreamHeader
		if header, err = protocol.ReadStreamHeader(conn); err == nil {
			err = r.park(header, conn)
		}
	}
	if err != nil {
		conn.Close()
		r.log.Warn("stream refused", "error", err)
	}
}

func (r *Registry) park(header protocol.StreamHeader, conn net.Conn) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Under the lock, so that nobody claims the connection before the answer
	// was written. One byte fits into the buffer of a new connection.
	if _, err := conn.Write([]byte{protocol.StreamAccepted}); err != nil {
		return fmt.Errorf("accept %v of %q %q: %w", header.Stream, header.Container, header.Process, err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("accept stream: %w", err)
	}
	if old, ok := r.parked[header]; ok {
		old.Close()
	} else {
		r.order = append(r.order, header)
	}
	r.parked[header] = conn
	for len(r.order) > maxParked {
		if old, ok := r.parked[r.order[0]]; ok {
			old.Close()
			delete(r.parked, r.order[0])
		}
		r.order = r.order[1:]
	}
	return nil
}

// Claim hands out the connection of a stream, which the caller then owns. It
// fails with ErrNotConnected when there is none.
func (r *Registry) Claim(header protocol.StreamHeader) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn, ok := r.parked[header]
	if !ok {
		return nil, fmt.Errorf("%v of container %q process %q: %w",
			header.Stream, header.Container, header.Process, ErrNotConnected)
	}
	delete(r.parked, header)
	for i, parked := range r.order {
		if parked == header {
			r.order = append(r.order[:i], r.order[i+1:]...)
			break
		}
	}
	return conn, nil
}

func (r *Registry) closeParked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for header, conn := range r.parked {
		conn.Close()
		delete(r.parked, header)
	}
	r.order = nil
}
