package loopback

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/accept"
)

// Dial reaches a vsock port of the guest.
type Dial func(ctx context.Context, port uint32) (net.Conn, error)

// Options are what New needs.
type Options struct {
	// Namespace is the pod's network namespace. It stays the caller's, who may
	// close it after New.
	Namespace *os.File
	// Dial reaches the agent.
	Dial Dial
	// Token is what the agent was told, of NewToken. Empty: one is drawn.
	Token string
	// Services are what the guest may connect to. SetServices changes them.
	Services []Service
	// OutboundOnly leaves connections that are made in the namespace alone: it
	// is not the pod's but the host's.
	OutboundOnly bool
	Log          *slog.Logger
}

// Loopback is a pod's. Make it with New; its methods may be called from any
// goroutine.
type Loopback struct {
	log       *slog.Logger
	namespace *os.File
	dial      Dial
	token     string
	// maxConnections and maxGreeting of this process. The latter is the smaller one.
	connectionLimit, greetingLimit int

	life       context.Context //nolint:containedctx // the pod's own life, not a caller's
	end        context.CancelFunc
	background sync.WaitGroup
	closing    sync.Once
	closeErr   error

	inbound  []*accept.Listener // in the namespace
	steering *steering          // nil: no connection made there reaches the guest

	mu       sync.Mutex // guards what follows
	services map[Service]struct{}
	greeting []net.Conn // have not sent their header yet, oldest first
	// open are the guest's connections, but for those that were given up, which end.
	open map[net.Conn]struct{}
}

// NewToken returns relay.TokenLength characters that cannot be guessed.
func NewToken() string { return (rand.Text() + rand.Text())[:relay.TokenLength] }

// New begins to take connections that are made to loopback in the namespace;
// those of the guest come with Serve. Where the host's kernel cannot hand over
// the former it says so in the log, and does without. Close ends everything.
func New(options Options) (_ *Loopback, err error) {
	l := &Loopback{log: options.Log, dial: options.Dial, token: options.Token, connectionLimit: accept.AtMost(maxConnections), open: map[net.Conn]struct{}{}}
	l.greetingLimit = min(maxGreeting, max(1, l.connectionLimit/2))
	if l.token == "" {
		l.token = NewToken()
	}
	l.life, l.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	fd, err := unix.FcntlInt(options.Namespace.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep the network namespace of the pod: %w", err)
	}
	l.namespace = os.NewFile(uintptr(fd), options.Namespace.Name())
	if l.services, err = set(options.Services); err != nil {
		return nil, err
	}
	if options.OutboundOnly {
		return l, nil
	}
	if err := l.takeInbound(options.Services); err != nil {
		l.log.Warn("connections to localhost in the pod's network namespace, such as those of kubectl port-forward, do not reach the guest",
			"error", err)
	}
	return l, nil
}

// Token is the secret that the agent needs.
func (l *Loopback) Token() string { return l.token }

// set checks services.
func set(services []Service) (map[Service]struct{}, error) {
	if len(services) > maxServices {
		return nil, fmt.Errorf("%w: %d of them, at most %d", ErrService, len(services), maxServices)
	}
	result := make(map[Service]struct{}, len(services))
	for _, service := range services {
		if err := service.check(); err != nil {
			return nil, err
		}
		result[service] = struct{}{}
	}
	return result, nil
}

// SetServices changes what the guest may connect to from now on; connections that
// there are stay. Call it before the agent is told of new services.
func (l *Loopback) SetServices(services []Service) error {
	allowed, err := set(services)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life.Err() != nil {
		return fmt.Errorf("set loopback services: %w", net.ErrClosed)
	}
	if l.steering != nil {
		if err := l.steering.Exempt(exempt(services)); err != nil {
			return err
		}
	}
	l.services = allowed
	return nil
}

// exempt returns the addresses whose connections are the host's own.
func exempt(services []Service) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, service := range services {
		if service.Network == "tcp" {
			addrs = append(addrs, service.Address)
		}
	}
	return addrs
}

// Close ends every connection, leaves the namespace as it was, and waits for
// everything that runs. Idempotent.
func (l *Loopback) Close() error {
	l.closing.Do(func() {
		l.mu.Lock()
		l.end()
		l.mu.Unlock()
		var errs []error
		if l.steering != nil {
			errs = append(errs, l.steering.Close())
		}
		for _, listener := range l.inbound {
			errs = append(errs, listener.Close())
		}
		l.background.Wait()
		if l.namespace != nil {
			errs = append(errs, l.namespace.Close())
		}
		l.closeErr = errors.Join(errs...)
	})
	return l.closeErr
}
