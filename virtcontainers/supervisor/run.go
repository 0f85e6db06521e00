package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/logfile"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// bootTimeout bounds how long a new supervisor waits for its first message:
// the command that forked it sends it at once or is gone.
const bootTimeout = 10 * time.Second

// answerTimeout bounds how long an ending supervisor waits for commands to take
// their answers and hang up.
const answerTimeout = 5 * time.Second

// cgroupTimeout bounds the wait for the last processes of a control group that
// is to be removed: killed ones, which release their memory.
const cgroupTimeout = 20 * time.Second

// server is a running supervisor.
type server struct {
	id      string
	store   *store.Store
	sandbox *virtcontainers.Sandbox
	vsock   string
	log     *slog.Logger
	// networkModel is one of config's.
	networkModel string
	hostNetwork  bool
	// loopbackPorts are config's.
	loopbackPorts []string

	rpc  *ttrpc.Server
	done chan struct{} // closed by finish
	once sync.Once

	background sync.WaitGroup

	// services is held while loopback services are found and set. It comes
	// before mu.
	services sync.Mutex

	mu         sync.Mutex // guards what follows
	channels   map[string]*commandChannel
	containers map[string]*container
	ending     bool // no container is taken any more
}

// Run is the supervisor's whole life. The command's channel comes from the
// process that launched it; the mount namespace must be private to this
// process. It returns when the last container has been deleted, ctx has ended,
// or nobody wants the pod any more; everything that the pod held is released
// then.
func Run(ctx context.Context, first *channel.Conn) error {
	if err := first.SetDeadline(time.Now().Add(bootTimeout)); err != nil {
		return fmt.Errorf("bound the wait for the first message: %w", err)
	}
	var boot Boot
	if _, err := first.Receive(&boot); err != nil {
		return fmt.Errorf("receive the first message: %w", err)
	}
	if err := first.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("lift the bound: %w", err)
	}
	err := run(ctx, first, boot)
	if err != nil {
		// After the channel was answered once, nobody reads this: harmless.
		_ = first.Send(Ready{Error: err.Error(), Exists: errors.Is(err, virtcontainers.ErrExists)})
	}
	return err
}

func run(ctx context.Context, first *channel.Conn, boot Boot) (err error) {
	states, err := store.Open(boot.Root)
	if err != nil {
		return err
	}
	entry, err := states.Reserve(boot.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, entry.Remove()) }()
	if err := claimState(entry, boot.ID); err != nil {
		return err
	}

	log, closeLog, err := openLog(entry.Path(logName), boot.Debug)
	if err != nil {
		return err
	}
	defer closeLog()
	leave, err := joinCgroup(entry, boot.Cgroup)
	defer func() {
		if leaveErr := leave(context.WithoutCancel(ctx)); leaveErr != nil {
			log.Error("remove the control group", "error", leaveErr)
			err = errors.Join(err, leaveErr)
		}
	}()
	if err != nil {
		return err
	}
	sandbox, vsock, err := newSandbox(ctx, entry, boot, log)
	if err != nil {
		return err
	}
	s := &server{
		id: boot.ID, store: states, sandbox: sandbox, vsock: vsock, log: log, networkModel: boot.Config.Runtime.NetworkModel,
		hostNetwork: boot.HostNetwork, loopbackPorts: boot.Config.Runtime.LoopbackPorts,
		done:       make(chan struct{}),
		channels:   make(map[string]*commandChannel),
		containers: make(map[string]*container),
	}
	defer func() { err = errors.Join(err, sandbox.Stop(context.WithoutCancel(ctx))) }()
	return s.serve(ctx, first, entry)
}

// joinCgroup moves this process into the pod's control group before it starts
// others, which are born there. The group is recorded first: whoever finds this
// process killed removes it. leave is never nil, and undoes it.
func joinCgroup(entry *store.Entry, record *cgroup.Record) (leave func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	group, err := record.Open()
	if err != nil || group == nil {
		return nothing, err
	}
	if err := entry.Update(func(state *store.State) error {
		state.Cgroup = record
		return nil
	}); err != nil {
		return nothing, err
	}
	membership, err := group.Join()
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, cgroupTimeout)
		defer cancel()
		return errors.Join(membership.Leave(), group.Remove(ctx))
	}, err
}

// claimState notes whose the pod is that is being made: hooks of its first
// container, and whoever else asks, find it.
func claimState(entry *store.Entry, id string) error {
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	return entry.Update(func(state *store.State) error {
		state.SandboxID, state.SupervisorPID, state.SupervisorStartTime = id, os.Getpid(), start
		return nil
	})
}

func newSandbox(ctx context.Context, entry *store.Entry, boot Boot, log *slog.Logger) (*virtcontainers.Sandbox, string, error) {
	token, err := newToken()
	if err != nil {
		return nil, "", err
	}
	ceilings, err := limits.Ceilings(limits.System)
	if err != nil {
		return nil, "", err
	}
	shareDir := entry.Path(shareName)
	if err := os.Mkdir(shareDir, 0o700); err != nil {
		return nil, "", fmt.Errorf("make the share's directory: %w", err)
	}
	shared, err := share.New(shareDir)
	if err != nil {
		return nil, "", err
	}
	sizes := sizingOptions(boot)
	size := firstSize(boot, sizes, log)
	host, err := findHostNetwork(boot)
	if err != nil {
		return nil, "", errors.Join(err, shared.Close())
	}
	networking, nics, err := networkOptions(boot, size, log)
	if err != nil {
		return nil, "", errors.Join(err, shared.Close())
	}
	if host != nil {
		networking.Fixed, networking.Keep = host.Request(), [][]byte{host.MAC}
	}
	made, err := machine.New(ctx, machine.Spec{
		ID: boot.ID, Dir: entry.Dir(), ShareDir: shareDir, Token: token,
		Size: size, MaxSize: sizes.Policy.Max, NICs: nics, HostNetwork: host, Config: boot.Config, Log: log,
	})
	if err != nil {
		return nil, "", errors.Join(err, closeTaps(networking.Spare), shared.Close())
	}
	if sizes.BeforeGrowth, err = limitHost(boot, made.Info(), size); err != nil {
		return nil, "", errors.Join(err, made.Stop(context.WithoutCancel(ctx)), closeTaps(networking.Spare), shared.Close())
	}
	sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
		ID: boot.ID, Hostname: boot.Hostname, Machine: made, Share: shared, Token: token,
		BootTimeout: boot.Config.Agent.DialTimeout, Sizing: sizes, Network: networking, Log: log,
		RelaySockets: !boot.Config.Runtime.DisableSocketRelay, Ceilings: ceilings,
	})
	sandbox.Start()
	return sandbox, made.Vsock(), nil
}

// serve answers until the pod ends.
func (s *server) serve(ctx context.Context, first *channel.Conn, entry *store.Entry) error {
	rpcSocket, err := listen(entry, socketName, "unix")
	if err != nil {
		return err
	}
	rpcListener := newConnections(accept.Patiently(accept.Peers{UnixListener: rpcSocket, Log: s.log}, s.log))
	channelSocket, err := listen(entry, channelName, "unixpacket")
	if err != nil {
		return errors.Join(err, rpcListener.Close())
	}
	channelListener := accept.Patiently(accept.Peers{UnixListener: channelSocket, Log: s.log}, s.log)
	if s.rpc, err = ttrpc.NewServer(); err != nil {
		return errors.Join(fmt.Errorf("make the ttrpc server: %w", err), rpcListener.Close(), channelListener.Close())
	}
	api.RegisterSupervisorService(s.rpc, s)
	s.containers[s.id] = newContainer(entry) // reserved, not asked for yet

	s.background.Go(func() {
		if err := s.rpc.Serve(ctx, rpcListener); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			s.log.Error("ttrpc server ended", "error", err)
			s.finish()
		}
	})
	s.background.Go(func() { s.accept(channelListener) })
	s.background.Go(func() { s.serveCommand(first) })

	select {
	case <-s.done:
	case <-ctx.Done():
		s.log.Info("asked to end", "cause", context.Cause(ctx))
	}
	return s.shutdown(context.WithoutCancel(ctx), rpcListener, channelListener)
}

// shutdown ends whatever is still connected and waits for every goroutine.
func (s *server) shutdown(ctx context.Context, rpcListener *connections, channelListener net.Listener) error {
	errs := []error{s.sandbox.Stop(ctx)} // containers exit, stand-ins learn of it
	s.mu.Lock()
	s.ending = true
	channels := make([]*commandChannel, 0, len(s.channels))
	for _, c := range s.channels {
		channels = append(channels, c)
	}
	s.mu.Unlock()
	errs = append(errs, channelListener.Close())
	for _, c := range channels {
		c.conn.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	rpcListener.drain(ctx) // lets the last answers out
	errs = append(errs, s.rpc.Close())
	s.background.Wait()
	return errors.Join(errs...)
}

// finish makes serve return.
func (s *server) finish() { s.once.Do(func() { close(s.done) }) }

// listen makes a unix socket in a state directory, whatever the length of its
// path: an address has room for 107 bytes only, so it goes by way of a
// descriptor.
func listen(entry *store.Entry, name, network string) (*net.UnixListener, error) {
	path := entry.Path(name)
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer parent.Close()
	listener, err := net.ListenUnix(network, address(parent, path, network))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false) // its path leads through a descriptor that is closed by then
	// It is made as the caller's umask wants. Nobody else gets into its directory
	// meanwhile, nor past the check of who has connected.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), listener.Close())
	}
	return listener, nil
}

func address(parent *os.File, path, network string) *net.UnixAddr {
	return &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), filepath.Base(path)), Net: network}
}

func openLog(path string, debug bool) (*slog.Logger, func(), error) {
	file, err := logfile.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("supervisor: %w", err)
	}
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	log := slog.New(logfile.Limit(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level})))
	return log, func() { file.Close() }, nil
}

func newToken() (string, error) {
	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return hex.EncodeToString(token), nil
}
