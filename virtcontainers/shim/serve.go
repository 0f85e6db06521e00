package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/shim/bootstrap"
	"kata-runtime/virtcontainers/shim/events"
)

// Holder is a process that is in a container's namespaces on the host, as
// *holder.Holder is.
type Holder interface {
	PID() int
	// Done is closed when it has ended, whoever has ended it.
	Done() <-chan struct{}
	Stop()
}

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
	// Runtime are the options that containerd gave to the shim itself, for a
	// sandbox; each task repeats its own.
	Runtime bootstrap.RuntimeOptions
	// HostMounts is containerd's mount namespace; nil: this process's own is as good.
	HostMounts *os.File
	// Rlimits are containerd's, which a container has that names none.
	Rlimits []specs.POSIXRlimit
	// Prepared is a machine that this process has already, for the pod; nil: none.
	Prepared *factory.Prepared
	// Started is called when the pod runs; nil: nobody wants to know.
	Started func()
	Log     *slog.Logger

	// NewSandbox makes the pod's machine; nil: that of Prepared, or factory.New.
	NewSandbox func(context.Context, factory.Spec) (sandbox *virtcontainers.Sandbox, vsock string, err error)
	// StartHolder starts the process that stands for a container; nil: holder.Start.
	StartHolder func(context.Context, holder.Options) (Holder, error)
}

func startHolder(ctx context.Context, options holder.Options) (Holder, error) {
	h, err := holder.Start(ctx, options)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Serve is the shim's life: it answers until containerd has asked it to shut
// down and no task is left, or ctx ends. The mount namespace must be this
// process's own. Everything that the pod held is released then, and nothing goes
// on in the background.
func Serve(ctx context.Context, options Options) (err error) {
	switch {
	case options.NewSandbox != nil:
	case options.Prepared != nil:
		options.NewSandbox = options.Prepared.NewSandbox
	default:
		options.NewSandbox = factory.New
	}
	if options.StartHolder == nil {
		options.StartHolder = startHolder
	}
	publisher := events.New(events.Options{Address: options.EventsAddress, Namespace: options.Namespace, Log: options.Log})
	defer func() { err = errors.Join(err, publisher.Close(context.WithoutCancel(ctx))) }()
	s := newService(options, publisher)
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.intercept))
	if err != nil {
		return fmt.Errorf("make the ttrpc server: %w", err)
	}
	s.register(server)
	served := make(chan error, 1)
	asked := ctx
	ctx = context.WithoutCancel(ctx) // whoever waits for a task is told of its end
	listener := &connections{Listener: options.Listener, deserted: s.deserted}
	go func() { served <- server.Serve(ctx, listener) }()
	patience := time.Duration(0)
	select {
	case <-s.done:
		patience = s.goodbye
	case <-asked.Done():
		options.Log.Info("asked to end", "cause", context.Cause(asked))
	case err = <-served:
		err = fmt.Errorf("serve containerd: %w", err)
		served <- nil
	}
	err = errors.Join(err, s.stop(ctx))
	listener.await(ctx, patience)
	err = errors.Join(err, shutdown(ctx, server))
	if serveErr := <-served; !errors.Is(serveErr, ttrpc.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
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
