// Package accept takes connections from listeners, whatever the kernel lacks for
// a while, and says how many of them this process can have open.
package accept

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The waits after failures; what is lacking comes back when something is closed,
// which nobody tells of.
const (
	firstWait = 5 * time.Millisecond
	lastWait  = time.Second
)

// Listener is a listener whose Accept goes on after a failure that may pass. Make
// it with Patiently.
type Listener struct {
	net.Listener

	log    *slog.Logger
	closed chan struct{}
	once   sync.Once
}

// Patiently takes over a listener.
func Patiently(listener net.Listener, log *slog.Logger) *Listener {
	return &Listener{Listener: listener, log: log, closed: make(chan struct{})}
}

// Accept waits for a connection. An error is one that stays: net.ErrClosed is
// wrapped after Close.
func (l *Listener) Accept() (net.Conn, error) {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		conn, err := l.Listener.Accept()
		if err == nil || !passes(err) {
			return conn, err
		}
		if wait == firstWait {
			l.log.Warn("a connection is kept waiting", "listener", l.Addr(), "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.closed:
			timer.Stop()
			return nil, net.ErrClosed
		}
	}
}

// Close ends the listener, and an Accept that waits. Idempotent.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
	})
	return err
}

// passes tells whether an error of accept(2) is the connection's, or about
// something that is lacking.
func passes(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false // for whatever reason, which may be the VMM's end
	}
	for _, errno := range []error{
		unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN,
		unix.ECONNABORTED, unix.ECONNRESET, unix.EPROTO, unix.EPERM, // EPERM: a firewall's
		// Errors of the new connection's network, see accept(2).
		unix.ENETDOWN, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET, unix.EHOSTUNREACH, unix.EOPNOTSUPP, unix.ENETUNREACH,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// perConnection is how many descriptors a relayed connection takes: both its
// ends, and what copying between them needs.
const perConnection = 4

// AtMost is how many relayed connections of one kind may be open at a time: as
// many as are wanted, unless this process may have too few descriptors for that.
// Each of three kinds has a quarter of them.
func AtMost(wanted int) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return wanted
	}
	return atMost(wanted, limit.Cur)
}

func atMost(wanted int, descriptors uint64) int {
	const share = 4 * perConnection
	if descriptors/share >= uint64(wanted) {
		return wanted
	}
	return max(1, int(descriptors/share))
}
