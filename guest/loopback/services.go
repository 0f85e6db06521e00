package loopback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/protocol/relay"
)

const (
	// maxServices bounds the services, maxPerService the TCP connections of one
	// that are open at a time: further ones wait to be accepted.
	maxServices   = 64
	maxPerService = 128
	// maxConnecting bounds the connections that the host has not answered yet:
	// it gives up on some where there are twice as many.
	maxConnecting = 256
	// connectTimeout bounds how long the host may take to connect.
	connectTimeout = 30 * time.Second
)

// errService is wrapped by errors about services that cannot be served.
var errService = errors.New("cannot serve the loopback service")

// Dial reaches a port of the host.
type Dial func(ctx context.Context, port uint32) (net.Conn, error)

// Services are servers of the host's side that the agent stands in for. Make it
// with NewServices; its methods may be called from any goroutine.
type Services struct {
	log        *slog.Logger
	dial       Dial
	connecting chan struct{} // one for each connection that waits for the host

	mu      sync.Mutex // guards what follows
	closed  bool
	port    uint32 // 0: not configured
	token   string
	running map[service]*server
	// steering is nil before a service needs it, and where the kernel has none,
	// of which steeringErr is the reason.
	steering    *steering
	steeringErr error
}

// service is what tells services apart.
type service struct {
	network relay.Network
	address netip.AddrPort
}

func (s service) String() string { return s.network.String() + ":" + s.address.String() }

// server serves one service.
type server struct {
	service

	log        *slog.Logger
	dial       func(ctx context.Context) (net.Conn, error)
	token      string
	connecting chan struct{}   // Services'
	life       context.Context //nolint:containedctx // the server's own life, not a caller's
	end        context.CancelFunc
	serving    sync.WaitGroup
	listener   *net.TCPListener // with TCP
	packets    *packets         // with UDP
	steering   *steering        // nil: the sockets are bound to the address itself
}

// NewServices returns an object without services.
func NewServices(log *slog.Logger, dial Dial) *Services {
	return &Services{
		log: log, dial: dial, connecting: make(chan struct{}, maxConnecting), running: map[service]*server{},
	}
}

// Configure says which port of the host relays, and the pod's token.
func (s *Services) Configure(port uint32, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port, s.token = port, token
}

// Set makes the services those of the list: it begins to listen for those that
// are new, and ends those that are gone, with their connections. When some cannot
// be served it serves the others, and the error names each; a later call tries
// again.
func (s *Services) Set(list []*protocol.LoopbackService) error {
	wanted, err := parse(list)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return fmt.Errorf("set loopback services: %w", net.ErrClosed)
	case len(wanted) > 0 && s.port == 0:
		return fmt.Errorf("%w: the host relays none", errService)
	}
	var gone []*server
	for key, old := range s.running {
		if _, keep := wanted[key]; !keep {
			gone = append(gone, old)
			delete(s.running, key)
		}
	}
	stop(gone)
	for key := range wanted {
		if s.running[key] != nil {
			continue
		}
		started, startErr := s.start(key)
		if startErr != nil {
			err = errors.Join(err, fmt.Errorf("%w %v: %w", errService, key, startErr))
			continue
		}
		s.running[key] = started
	}
	return err
}

// Close ends all services and waits for it. Idempotent.
func (s *Services) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var all []*server
	for _, running := range s.running {
		all = append(all, running)
	}
	clear(s.running)
	stop(all)
	if s.steering != nil {
		s.steering.Close()
		s.steering = nil
	}
}

// parse checks a list of services.
func parse(list []*protocol.LoopbackService) (map[service]struct{}, error) {
	wanted := map[service]struct{}{}
	if len(list) > maxServices {
		return nil, fmt.Errorf("%w: %d of them, at most %d", errService, len(list), maxServices)
	}
	var errs []error
	for _, item := range list {
		network, err := relay.ParseNetwork(item.GetNetwork())
		address, isAddress := netip.AddrFromSlice(item.GetAddress())
		address = address.Unmap()
		if err != nil || !isAddress || !address.IsLoopback() || item.GetPort() == 0 || item.GetPort() > 0xffff {
			errs = append(errs, fmt.Errorf("%w %q, address %v, port %d: it is none on loopback",
				errService, item.GetNetwork(), address, item.GetPort()))
			continue
		}
		wanted[service{network, netip.AddrPortFrom(address, uint16(item.GetPort()))}] = struct{}{}
	}
	return wanted, errors.Join(errs...)
}

// stop ends servers and waits for their end.
func stop(servers []*server) {
	for _, old := range servers {
		old.end()
		if old.listener != nil {
			old.listener.Close()
		}
		if old.packets != nil {
			old.packets.conn.Close()
		}
	}
	for _, old := range servers {
		old.serving.Wait()
		if old.packets != nil && old.packets.answerer != nil {
			old.packets.answerer.raw.Close()
		}
	}
}

// start begins to serve; the caller holds mu.
func (s *Services) start(key service) (*server, error) {
	started := &server{
		service: key, log: s.log.With("service", key.String()), token: s.token, connecting: s.connecting,
	}
	if needsSteering(key.address.Addr()) {
		started.steering = s.steer()
	}
	port := s.port
	started.dial = func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, port) }
	// A server outlives the call that starts it.
	started.life, started.end = context.WithCancel(context.Background())
	var err error
	if key.network == relay.TCP {
		err = started.listenTCP()
	} else {
		err = started.listenUDP()
	}
	if err != nil {
		started.end()
		return nil, err
	}
	return started, nil
}

// steer returns what hands services' packets to sockets on other ports, or nil
// where the kernel does not. The caller holds mu.
func (s *Services) steer() *steering {
	if s.steering == nil && s.steeringErr == nil {
		if s.steering, s.steeringErr = newSteering(); s.steeringErr != nil {
			s.log.Warn("containers cannot listen on the ports of loopback services", "error", s.steeringErr)
		}
	}
	return s.steering
}

// bound is the address that the socket is bound to.
func (s *server) bound() netip.AddrPort {
	if s.steering != nil {
		return netip.AddrPortFrom(s.address.Addr(), 0)
	}
	return s.address
}

func (s *server) listenTCP() error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // it has nothing to give on loopback
	listener, err := config.Listen(s.life, "tcp", s.bound().String())
	if err != nil {
		return err
	}
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		listener.Close()
		return fmt.Errorf("%w: listener is a %T", errService, listener)
	}
	if s.steering != nil {
		if err := s.steering.put(s.service, tcp); err != nil {
			tcp.Close()
			return err
		}
	}
	s.listener = tcp
	s.serving.Go(s.serveTCP)
	return nil
}

// serveTCP accepts connections until the listener is closed.
func (s *server) serveTCP() {
	slots := make(chan struct{}, maxPerService)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.life.Done():
			return
		}
		conn, err := s.listener.AcceptTCP()
		if errors.Is(err, unix.ECONNABORTED) {
			<-slots // the client has gone
			continue
		}
		if err != nil {
			if s.life.Err() == nil {
				s.log.Warn("loopback service is served no more", "error", err)
			}
			return
		}
		s.serving.Go(func() {
			defer func() { <-slots }()
			if err := s.carry(relay.TCPSocket{TCPConn: conn}); err != nil {
				s.log.Debug("loopback connection ended", "error", err)
			}
		})
	}
}

// carry relays one connection to its end.
func (s *server) carry(client relay.TCPSocket) error {
	peer, err := s.connect()
	if err != nil {
		return errors.Join(err, client.Abort())
	}
	return relay.Copy(s.life, client, peer)
}

// connect lets the host connect to the server.
func (s *server) connect() (_ net.Conn, err error) {
	ctx, cancel := context.WithTimeout(s.life, connectTimeout)
	defer cancel()
	select {
	case s.connecting <- struct{}{}:
		defer func() { <-s.connecting }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other connections: %w", context.Cause(ctx))
	}
	peer, err := s.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial the host: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = peer.SetDeadline(time.Unix(1, 0)) })
	header := relay.ServiceHeader{Token: s.token, Network: s.network, Address: s.address}
	if err = relay.WriteServiceHeader(peer, header); err == nil {
		err = relay.ReadAnswer(peer)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		peer.Close()
		return nil, fmt.Errorf("let the host connect: %w", err)
	}
	return peer, nil
}
