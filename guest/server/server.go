package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"kata-runtime/guest/bootparam"
	"kata-runtime/guest/console"
	"kata-runtime/guest/container"
	"kata-runtime/guest/loopback"
	"kata-runtime/guest/sockets"
	"kata-runtime/guest/stream"
)

// Config is what Run needs.
type Config struct {
	Log *slog.Logger
	// Version is the agent's, for people to read.
	Version string
	// StateDir is where libcontainer keeps its state; Run makes it.
	StateDir string
	// Agent takes the connections of the ttrpc service, Streams those of
	// standard streams. Run closes both.
	Agent, Streams net.Listener
	// Network is the pod's: loopback alone until it is given more.
	Network Network
	// SocketDir is where the agent's ends of relayed unix sockets are; DialHost
	// reaches the host's port for their connections.
	SocketDir string
	DialHost  sockets.Dial
	// Forward takes the host's connections for servers on the guest's loopback;
	// Run closes it. nil: there are none.
	Forward net.Listener
	// Announce is called once both are served; an error is logged.
	Announce func(ctx context.Context) error
}

// Run serves until ctx ends, and then returns nil, or a listener fails: after every
// container was removed and every goroutine has ended.
func Run(ctx context.Context, cfg Config) (err error) {
	registry := stream.NewRegistry(cfg.Log)
	relay := sockets.New(cfg.Log, cfg.SocketDir, cfg.DialHost)
	runtime, err := container.New(cfg.Log, cfg.StateDir, registry, relay)
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	defer func() {
		// A context of its own: this must happen after ctx has ended.
		err = errors.Join(err, runtime.Close(context.WithoutCancel(ctx)))
	}()
	services := loopback.NewServices(cfg.Log, loopback.Dial(cfg.DialHost))
	defer services.Close()
	sandbox := newSandbox(cfg, runtime, relay)
	sandbox.loopback = services
	sandbox.console = console.New(cfg.Log, registry)
	defer sandbox.close()

	cfg.Log.Debug("serving", "uptime", bootparam.Uptime())
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return registry.Serve(groupCtx, cfg.Streams) })
	if cfg.Forward != nil {
		group.Go(func() error {
			// The pod does without rather than end.
			if err := loopback.Forward(groupCtx, cfg.Log, cfg.Forward); err != nil {
				cfg.Log.Error("connections to the pod's localhost are taken no more", "error", err)
			}
			return nil
		})
	}
	group.Go(func() error { return serveAgent(groupCtx, cfg.Log, cfg.Agent, sandbox) })
	if cfg.Announce != nil {
		group.Go(func() error {
			if err := cfg.Announce(groupCtx); err != nil {
				cfg.Log.Error("not announced", "error", err)
			}
			cfg.Log.Debug("announced", "uptime", bootparam.Uptime(), "rss", residentBytes())
			return nil
		})
	}
	return group.Wait()
}
