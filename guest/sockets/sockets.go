package sockets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"kata-runtime/guest/protocol"
)

const (
	// maxConnections bounds the connections of one container that are open at
	// a time. Further ones wait to be accepted.
	maxConnections = 128
	// maxSockets bounds a container's sockets.
	maxSockets = 256
)

// ErrUnavailable is wrapped by errors about sockets that cannot be relayed,
// since the host gave no port for it.
var ErrUnavailable = errors.New("the host relays no sockets")

// Dial reaches the host's port of the relay.
type Dial func(ctx context.Context, port uint32) (net.Conn, error)

// Relay owns the agent's sockets. Make it with New; its methods may be called
// from any goroutine.
type Relay struct {
	log  *slog.Logger
	dir  string // of the sockets
	dial Dial

	mu         sync.Mutex // guards what follows
	port       uint32     // 0: not configured
	token      string
	containers map[string]*container
}

// New returns a relay that keeps its sockets in dir, which it makes when it
// needs it.
func New(log *slog.Logger, dir string, dial Dial) *Relay {
	return &Relay{log: log, dir: dir, dial: dial, containers: map[string]*container{}}
}

// Configure says which port of the host relays, and the pod's token.
func (r *Relay) Configure(port uint32, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.port, r.token = port, token
}

// container is a container with binds that show sockets.
type container struct {
	relay  *Relay
	id     string
	dir    string
	port   uint32
	token  string
	slots  chan struct{}   // one for each connection
	life   context.Context //nolint:containedctx // the container's own life, not a caller's
	end    context.CancelFunc
	serves sync.WaitGroup

	mu      sync.Mutex // guards what follows
	space   *space     // of the container's mounts; nil until Enter
	binds   map[string]*directory
	direct  []*listener
	counter int // of listeners' names
	sockets int
}

// Prepare makes the sockets of a container that is about to be created. The
// returned map tells which sources of its bind mounts are to be replaced, and by
// what. Close undoes it.
func (r *Relay) Prepare(ctx context.Context, id string, binds []*protocol.SocketBind) (map[string]string, error) {
	if len(binds) == 0 {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.port == 0 {
		return nil, ErrUnavailable
	}
	if old := r.containers[id]; old != nil {
		return nil, fmt.Errorf("relay sockets of container %q: %w", id, os.ErrExist)
	}
	c := &container{
		relay: r, id: id, dir: filepath.Join(r.dir, id), port: r.port, token: r.token,
		slots: make(chan struct{}, maxConnections), binds: map[string]*directory{},
	}
	// The relay outlives the call.
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("relay sockets of container %q: %w", id, err)
	}
	r.containers[id] = c
	sources := map[string]string{}
	for _, bind := range binds {
		if bind.GetDirectory() {
			c.binds[bind.GetName()] = &directory{
				name: bind.GetName(), source: bind.GetSource(), wanted: bind.GetSockets(), shown: map[string]*listener{},
			}
			continue
		}
		for _, socket := range bind.GetSockets() {
			l, err := c.listen(bind.GetName(), socket)
			if err != nil {
				return nil, errors.Join(err, r.remove(id))
			}
			c.direct = append(c.direct, l)
			sources[bind.GetSource()] = l.path
		}
	}
	return sources, nil
}

// Enter shows the sockets of bind-mounted directories in a container whose
// first process has its mounts. destinations are the mounts' places in the
// container by their sources. What cannot be shown is logged.
func (r *Relay) Enter(id string, pid int, destinations map[string]string) error {
	c := r.find(id)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.binds) == 0 {
		return nil
	}
	space, err := openSpace(pid)
	if err != nil {
		return fmt.Errorf("show sockets in container %q: %w", id, err)
	}
	c.space = space
	for _, bind := range c.binds {
		if bind.root, err = space.open(destinations[bind.source], bind.source); err != nil {
			r.log.Warn("sockets in a bind mount are not relayed", "container", id, "bind", bind.name, "error", err)
			continue
		}
		c.show(bind)
	}
	return nil
}

// Update takes the host's word on which sockets there are now.
func (r *Relay) Update(id string, binds []*protocol.SocketBind) error {
	c := r.find(id)
	if c == nil {
		return fmt.Errorf("update sockets of container %q: %w", id, os.ErrNotExist)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, update := range binds {
		bind := c.binds[update.GetName()]
		if bind == nil {
			return fmt.Errorf("update sockets of container %q: bind mount %q: %w", id, update.GetName(), os.ErrNotExist)
		}
		bind.wanted = update.GetSockets()
		if bind.root != nil {
			c.show(bind)
		}
	}
	return nil
}

// Close ends the relaying for a container and removes its sockets. A container
// without any is no error.
func (r *Relay) Close(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remove(id)
}

// remove is Close; the caller holds mu.
func (r *Relay) remove(id string) error {
	c := r.containers[id]
	if c == nil {
		return nil
	}
	delete(r.containers, id)
	c.close()
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove sockets of container %q: %w", id, err)
	}
	return nil
}

func (r *Relay) find(id string) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.containers[id]
}

// close ends the listeners and their connections. The mounts go with the
// container's mount namespace.
func (c *container) close() {
	c.mu.Lock()
	c.end()
	listeners := c.direct
	for _, bind := range c.binds {
		for _, l := range bind.shown {
			listeners = append(listeners, l)
		}
		if bind.root != nil {
			bind.root.Close()
		}
	}
	c.binds, c.direct = nil, nil
	if c.space != nil {
		c.space.Close()
	}
	c.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	c.serves.Wait()
}

// nextPath returns a path for a socket; the caller holds mu or is alone.
func (c *container) nextPath() string {
	c.counter++
	return filepath.Join(c.dir, strconv.Itoa(c.counter))
}
