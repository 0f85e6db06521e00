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
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/logfile"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/monitor"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// bootTimeout bounds how long a new supervisor waits for its first message:
// the command that forked it sends it at once or is gone.
const bootTimeout = 10 * time.Second

// answerTimeout bounds how long an ending supervisor waits for commands to take
// their answers and hang up.
const answerTimeout = 5 * time.Second

// server is a running supervisor.
type server struct {
	id      string
	store   *store.Store
	pod     *pod.Pod
	sandbox *virtcontainers.Sandbox
	vsock   string
	machine *config.Machine // what the pod's is made of
	// networked: the pod's machine is connected with a namespace.
	networked bool
	log       *slog.Logger
	rpc       *ttrpc.Server
	started   func() // to be called when the first container runs

	background sync.WaitGroup

	mu       sync.Mutex // guards what follows
	channels map[string]*commandChannel
	records  map[string]*record
	first    *store.Entry // the pod's own, until its first container is asked for
}

// Run is the supervisor's whole life. The command's channel comes from the
// process that launched it; the mount namespace must be private to this
// process. It returns when the last container has been deleted, ctx has ended,
// or nobody wants the pod any more; everything that the pod held is released
// then.
func Run(ctx context.Context, first *channel.Conn) error {
	boot, starting, err := receiveBoot(first)
	if err != nil {
		return err
	}
	return runPod(ctx, first, boot, starting, newRestricted)
}

// newRestricted is factory.New in a process that gives up what it has no use for, before
// the guest is there that it listens to.
func newRestricted(ctx context.Context, spec factory.Spec) (sandbox *virtcontainers.Sandbox, vsock string, err error) {
	if err := machine.Restrict(spec.Config.Hypervisor); err != nil {
		return nil, "", err
	}
	return factory.New(ctx, spec)
}

func receiveBoot(first *channel.Conn) (boot Boot, starting *os.File, err error) {
	if err := first.SetDeadline(time.Now().Add(bootTimeout)); err != nil {
		return boot, nil, fmt.Errorf("bound the wait for the first message: %w", err)
	}
	files, err := first.Receive(&boot)
	if err != nil {
		return boot, nil, fmt.Errorf("receive the first message: %w", err)
	}
	for i, file := range files {
		if i > 0 {
			file.Close()
			continue
		}
		starting = file
	}
	if err := first.SetDeadline(time.Time{}); err != nil {
		closeFile(starting)
		return boot, nil, fmt.Errorf("lift the bound: %w", err)
	}
	return boot, starting, nil
}

func closeFile(file *os.File) {
	if file != nil {
		file.Close()
	}
}

// sandboxMaker is newRestricted, or gives a prepared machine away.
type sandboxMaker func(context.Context, factory.Spec) (sandbox *virtcontainers.Sandbox, vsock string, err error)

func runPod(ctx context.Context, first *channel.Conn, boot Boot, starting *os.File, newSandbox sandboxMaker) error {
	defer closeFile(starting)
	err := run(ctx, first, boot, starting, newSandbox)
	if err != nil {
		// After the channel was answered once, nobody reads this: harmless.
		_ = first.Send(Ready{Error: err.Error(), Exists: errors.Is(err, virtcontainers.ErrExists)})
	}
	return err
}

func run(ctx context.Context, first *channel.Conn, boot Boot, starting *os.File, newSandbox sandboxMaker) (err error) {
	states, err := store.Open(boot.Root)
	if err != nil {
		return err
	}
	entry, err := states.Reserve(boot.ID) //nolint:contextcheck // its wait is bounded by itself
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, entry.Remove()) }()
	if err := entry.ClaimPod(boot.ID); err != nil {
		return err
	}

	log, closeLog, err := openLog(entry.Path(logName), boot.Debug)
	if err != nil {
		return err
	}
	defer closeLog()
	leave, err := entry.EnterCgroup(boot.Cgroup)
	defer func() {
		if leaveErr := leave(context.WithoutCancel(ctx)); leaveErr != nil {
			log.Error("remove the control group", "error", leaveErr)
			err = errors.Join(err, leaveErr)
		}
	}()
	if err != nil {
		return err
	}
	group, err := boot.Cgroup.Open()
	if err != nil {
		return err
	}
	services, err := loopback.ParseServices(boot.Config.Runtime.LoopbackPorts)
	if err != nil {
		return fmt.Errorf("loopback_ports: %w", err)
	}
	sandbox, vsock, err := newSandbox(ctx, boot.spec(entry, group, log))
	if err != nil {
		return err
	}
	kind := networkKind(boot)
	s := &server{
		id: boot.ID, store: states, sandbox: sandbox, vsock: vsock, machine: &boot.Config.Hypervisor.Machine, log: log,
		pod:       pod.New(pod.Options{Sandbox: sandbox, Network: kind, Loopback: services, Log: log}),
		networked: kind != pod.NetworkNone,
		channels:  make(map[string]*commandChannel),
		records:   make(map[string]*record),
		first:     entry,
		started:   sync.OnceFunc(func() { closeFile(starting) }),
	}
	defer func() { err = errors.Join(err, sandbox.Stop(context.WithoutCancel(ctx))) }()
	return s.serve(ctx, first, entry)
}

// spec is what the pod's sandbox is made for.
func (b *Boot) spec(entry *store.Entry, group *cgroup.Group, log *slog.Logger) factory.Spec {
	return factory.Spec{
		ID: b.ID, Dir: entry.Dir(), ShareDir: entry.Path(shareName), Hostname: b.Hostname, Group: group,
		Demand: b.Demand, SandboxDemand: b.SandboxDemand,
		Interfaces: b.Interfaces, HostNetwork: b.HostNetwork, Kind: pool.Supervisor, Config: b.Config, Log: log,
	}
}

func networkKind(boot Boot) pod.Network {
	switch {
	case boot.HostNetwork:
		return pod.NetworkHost
	case boot.Config.Runtime.NetworkModel == config.NetworkNone:
		return pod.NetworkNone
	default:
		return pod.NetworkOwn
	}
}

// serve answers until the pod ends.
func (s *server) serve(ctx context.Context, first *channel.Conn, entry *store.Entry) error {
	rpcSocket, err := entry.Listen(socketName, "unix")
	if err != nil {
		return err
	}
	rpcListener := newConnections(accept.Patiently(accept.Peers{UnixListener: rpcSocket, Log: s.log}, s.log))
	channelSocket, err := entry.Listen(channelName, "unixpacket")
	if err != nil {
		return errors.Join(err, rpcListener.Close())
	}
	channelListener := accept.Patiently(accept.Peers{UnixListener: channelSocket, Log: s.log}, s.log)
	if s.rpc, err = ttrpc.NewServer(); err != nil {
		return errors.Join(fmt.Errorf("make the ttrpc server: %w", err), rpcListener.Close(), channelListener.Close())
	}
	api.RegisterSupervisorService(s.rpc, s)
	watched, err := monitor.Serve(entry, s.sandbox, monitor.Owner{Role: "supervisor", StandIns: s.standIns}, s.log)
	if err != nil {
		return errors.Join(err, rpcListener.Close(), channelListener.Close())
	}
	defer watched.Close() // after the pod's end, of which its connections hear

	s.background.Go(func() {
		if err := s.rpc.Serve(ctx, rpcListener); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			s.log.Error("ttrpc server ended", "error", err)
			s.pod.End()
		}
	})
	s.background.Go(func() { s.accept(channelListener) })
	s.background.Go(func() { s.serveCommand(first) })

	select {
	case <-s.pod.Done():
	case <-ctx.Done():
		s.log.Info("asked to end", "cause", context.Cause(ctx))
	}
	return s.shutdown(context.WithoutCancel(ctx), rpcListener, channelListener)
}

// shutdown ends whatever is still connected and waits for every goroutine.
func (s *server) shutdown(ctx context.Context, rpcListener *connections, channelListener net.Listener) error {
	errs := []error{s.pod.Stop(ctx)} // containers exit, stand-ins learn of it
	s.mu.Lock()
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
	s.pod.Wait()
	return errors.Join(errs...)
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
