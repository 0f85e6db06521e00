package sockets

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/share"
)

const (
	// maxConnections bounds a pod's relayed connections, maxPerContainer those
	// of one container: the agent makes further ones wait, so that a guest that
	// exceeds this is not the agent's. A process that may have few descriptors
	// takes fewer.
	maxConnections  = 512
	maxPerContainer = 160
	// maxConnecting bounds a container's connections that wait for a server.
	maxConnecting = 8
)

// Relay is a pod's. Make it with New; its methods may be called from any
// goroutine.
type Relay struct {
	log   *slog.Logger
	user  int
	token string
	// maxConnections and maxPerContainer of this process.
	connectionLimit, containerLimit int

	life       context.Context //nolint:containedctx // the relay's own life, not a caller's
	end        context.CancelFunc
	background sync.WaitGroup

	mu          sync.Mutex // guards what follows
	containers  map[string]*Container
	greeting    []net.Conn // have not sent their header yet, oldest first
	connections int
	watcher     *watcher // nil until a directory is to be watched
	unwatched   bool     // there can be no watcher
}

// New returns a relay. user is whom the kernel counts its watches for: one that only
// this pod has, or 0 for the process's own. Close ends the relay.
func New(log *slog.Logger, user int) *Relay {
	r := &Relay{
		log: log, user: user, token: newToken(), containers: map[string]*Container{},
		connectionLimit: accept.AtMost(maxConnections), containerLimit: accept.AtMost(maxPerContainer),
	}
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

// newToken returns relay.TokenLength characters that cannot be guessed.
func newToken() string { return (rand.Text() + rand.Text())[:32] }

// Token is the secret that the agent needs.
func (r *Relay) Token() string { return r.token }

// Container is a container's part of the relay.
type Container struct {
	relay      *Relay
	id         string
	connecting chan struct{}   // one for each connection that waits for a server
	life       context.Context //nolint:containedctx // the container's own life, not a caller's
	end        context.CancelFunc
	serving    sync.WaitGroup
	changed    chan struct{} // holds a token when there is something to tell

	mu    sync.Mutex // guards what follows
	open  int        // connections
	binds map[string]*bind
	// Whether the log has it that there are too many sockets, and directories
	// that are not watched.
	crowded, unwatched bool
}

// bind is a bind mount of a socket or of a directory.
type bind struct {
	name   string
	source string   // the guest's path
	root   *os.File // O_PATH
	direct bool     // root is the socket

	sockets map[string]*protocol.Socket // by path; "" when direct
	dirs    map[string]int32            // watched directories, with their watches
}

// Add looks for sockets in the mounts of a container that is about to be
// created; shareName is its directory in the share. The mounts stay the caller's.
// It returns nil where there is nothing to relay.
func (r *Relay) Add(id, shareName string, mounts []share.Mount) (*Container, error) {
	c := &Container{
		relay: r, id: id, connecting: make(chan struct{}, maxConnecting),
		changed: make(chan struct{}, 1), binds: map[string]*bind{},
	}
	c.life, c.end = context.WithCancel(r.life)
	for _, mount := range mounts {
		if mount.Name == share.Rootfs || mount.Temporary {
			continue
		}
		b, err := newBind(shareName, mount)
		if err != nil {
			c.release()
			return nil, err
		}
		if b != nil {
			c.binds[b.name] = b
		}
	}
	if len(c.binds) == 0 {
		c.end()
		return nil, nil
	}
	r.mu.Lock()
	if r.life.Err() != nil || r.containers[id] != nil {
		r.mu.Unlock()
		c.release()
		return nil, fmt.Errorf("relay sockets of container %s: %w", id, os.ErrExist)
	}
	r.containers[id] = c
	watch := r.watch()
	r.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.binds {
		if !b.direct {
			c.scan(watch, b, ".")
		}
	}
	return c, nil
}

// newBind returns what a mount can show of sockets, nil for nothing.
func newBind(shareName string, mount share.Mount) (*bind, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(mount.Tree.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("stat bind mount %s: %w", mount.Name, err)
	}
	kind := stat.Mode & unix.S_IFMT
	if kind != unix.S_IFSOCK && kind != unix.S_IFDIR {
		return nil, nil
	}
	fd, err := unix.FcntlInt(mount.Tree.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep bind mount %s: %w", mount.Name, err)
	}
	b := &bind{
		name: mount.Name, source: path.Join(protocol.ShareMountPoint, shareName, mount.Name),
		root: os.NewFile(uintptr(fd), mount.Tree.Name()), direct: kind == unix.S_IFSOCK,
		sockets: map[string]*protocol.Socket{}, dirs: map[string]int32{},
	}
	if b.direct {
		b.sockets[""] = describe("", &stat)
	}
	return b, nil
}

func describe(socketPath string, stat *unix.Stat_t) *protocol.Socket {
	return &protocol.Socket{Path: socketPath, Mode: stat.Mode & 0o7777, Uid: stat.Uid, Gid: stat.Gid}
}

// Binds is what the agent is to know when it creates the container. nil has
// nothing.
func (c *Container) Binds() []*protocol.SocketBind {
	if c == nil {
		return nil
	}
	return c.snapshot(true)
}

func (c *Container) snapshot(direct bool) []*protocol.SocketBind {
	c.mu.Lock()
	defer c.mu.Unlock()
	var binds []*protocol.SocketBind
	for _, b := range c.binds {
		if b.direct && !direct {
			continue
		}
		told := &protocol.SocketBind{Name: b.name, Source: b.source, Directory: !b.direct}
		for _, socket := range b.sockets {
			told.Sockets = append(told.Sockets, socket) // never changed, only replaced
		}
		binds = append(binds, told)
	}
	return binds
}

// Follow tells of the changes since Add, until ctx ends or the container is
// closed. A change that could not be told is told with the next one. Of failures
// in a row only the first is logged: the container decides how many changes there
// are.
func (c *Container) Follow(ctx context.Context, tell func(context.Context, *protocol.UpdateSocketsRequest) error) {
	failing := false
	for {
		select {
		case <-c.changed:
		case <-ctx.Done():
			return
		case <-c.life.Done():
			return
		}
		err := tell(ctx, &protocol.UpdateSocketsRequest{ContainerId: c.id, SocketBinds: c.snapshot(false)})
		if err != nil && !failing && ctx.Err() == nil && c.life.Err() == nil {
			c.relay.log.Warn("agent does not know the sockets of a container", "container", c.id, "error", err)
		}
		failing = err != nil
	}
}

// Close ends the container's connections. Idempotent; nil has none.
func (c *Container) Close() {
	if c == nil {
		return
	}
	r := c.relay
	r.mu.Lock()
	if r.containers[c.id] == c {
		delete(r.containers, c.id)
	}
	watch := r.watcher
	r.mu.Unlock()
	c.end()
	c.serving.Wait()
	if watch != nil {
		watch.forget(c)
	}
	c.release()
}

func (c *Container) release() {
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.binds {
		b.root.Close()
	}
	c.binds = nil
}

// Close ends every connection and waits for the relay's goroutines. Idempotent.
func (r *Relay) Close() {
	r.end()
	r.mu.Lock()
	var containers []*Container
	for _, c := range r.containers {
		containers = append(containers, c)
	}
	watch := r.watcher
	r.mu.Unlock()
	for _, c := range containers {
		c.Close()
	}
	if watch != nil {
		watch.close()
	}
	r.background.Wait()
}

// watch returns the pod's watcher, nil where there can be none. The caller
// holds mu.
func (r *Relay) watch() *watcher {
	if r.watcher != nil || r.unwatched {
		return r.watcher
	}
	watch, err := newWatcher(r.log, r.user)
	if err != nil {
		r.unwatched = true
		r.log.Warn("sockets that appear later are not relayed", "error", err)
		return nil
	}
	r.watcher = watch
	r.background.Go(watch.run)
	return watch
}

// errRefused is wrapped by errors about connections that the guest may not
// make.
var errRefused = errors.New("refused")
