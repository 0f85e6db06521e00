package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/mdlayher/vsock"

	"kata-runtime/guest/protocol"
)

// anyCID binds a listener to every address of the guest, also those it gets
// later: after a restore the CID is another one.
const anyCID = 0xffffffff

// ListenVsock listens on a vsock port of the guest for the host alone.
func ListenVsock(log *slog.Logger, port uint32) (net.Listener, error) {
	l, err := vsock.ListenContextID(anyCID, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	return &hostListener{Listener: l, log: log}, nil
}

// hostListener accepts connections from the host alone. A failed accept that
// is not the listener's end (a connection reset before it was accepted, as the
// transport does when the machine was restored) is passed over.
type hostListener struct {
	net.Listener
	log *slog.Logger
}

// maxAcceptErrors bounds errors without a connection in between: a listener
// that only fails is broken.
const maxAcceptErrors = 100

func (l *hostListener) Accept() (net.Conn, error) {
	failures := 0
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if failures++; errors.Is(err, net.ErrClosed) || failures > maxAcceptErrors {
				return nil, err
			}
			l.log.Warn("connection lost before it was accepted", "error", err)
			continue
		}
		failures = 0
		addr, ok := conn.RemoteAddr().(*vsock.Addr)
		if ok && addr.ContextID == protocol.HostCID {
			return conn, nil
		}
		l.log.Warn("refused a connection that is not the host's", "from", conn.RemoteAddr())
		conn.Close()
	}
}

// AnnounceVsock tells the host that the agent serves its ports: it sends token
// and a newline to the host's port.
func AnnounceVsock(ctx context.Context, port uint32, token string) error {
	conn, err := vsock.DialContext(ctx, protocol.HostCID, port, nil)
	if err != nil {
		return fmt.Errorf("tell the host that the agent is ready: %w", err)
	}
	_, err = conn.Write([]byte(token + "\n"))
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("tell the host that the agent is ready: %w", err)
	}
	return nil
}

// DialVsock connects to a vsock port of the host.
func DialVsock(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := vsock.DialContext(ctx, protocol.HostCID, port, nil)
	if err != nil {
		return nil, fmt.Errorf("dial vsock port %d of the host: %w", port, err)
	}
	return conn, nil
}
