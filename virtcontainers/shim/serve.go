package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers/shim/events"
)

// Options are what Serve needs.
type Options struct {
	// Listener is containerd's socket.
	Listener net.Listener
	// Namespace is containerd's, ID the first container's and so the pod's.
	Namespace, ID string
	// EventsAddress is the socket that takes events; empty: nobody does.
	EventsAddress string
	// Root is the directory that keeps what is known of pods.
	Root string
	// Rlimits are containerd's, which a container has that names none.
	Rlimits []specs.POSIXRlimit
	Log     *slog.Logger
}

// Serve is the shim's life: it answers until containerd has asked it to shut
// down and no task is left, or ctx ends. The mount namespace must be this
// process's own. Everything that the pod held is released then.
func Serve(ctx context.Context, options Options) (err error) {
	publisher := events.New(events.Options{Address: options.EventsAddress, Namespace: options.Namespace, Log: options.Log})
	defer func() { err = errors.Join(err, publisher.Close(context.WithoutCancel(ctx))) }()
	s := newService(options, publisher)
	server, err := ttrpc.NewServer()
	if err != nil {
		return fmt.Errorf("make the ttrpc server: %w", err)
	}
	s.register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, options.Listener) }()
	select {
	case <-s.done:
	case <-ctx.Done():
		options.Log.Info("asked to end", "cause", context.Cause(ctx))
	case err = <-served:
		served <- err
		err = fmt.Errorf("serve containerd: %w", err)
	}
	ctx = context.WithoutCancel(ctx)
	err = errors.Join(err, s.stop(ctx), shutdown(ctx, server))
	if serveErr := <-served; !errors.Is(serveErr, ttrpc.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	s.background.Wait()
	return err
}

// shutdown lets the last answers out, for a while.
func shutdown(ctx context.Context, server *ttrpc.Server) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // containerd keeps its connection
	}
	return errors.Join(err, server.Close())
}
