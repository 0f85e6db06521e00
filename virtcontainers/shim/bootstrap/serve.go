package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/logfile"
	"kata-runtime/virtcontainers/namespace"
)

// errAbandoned is why a server ends of which nobody was told.
var errAbandoned = errors.New("the command that started the server ended before it had answered its caller")

// inherited is what a server has of start.
type inherited struct {
	socket, handover, mounts, starting *os.File
	prepared                           *factory.Prepared // nil: none
}

// serve is the program as a server. from is nil for one that start has forked.
func (p Program) serve(ctx context.Context, inv invocation, from *inherited) (err error) {
	_ = os.WriteFile("/proc/self/comm", []byte(processName), 0) // what ps shows; nothing depends on it
	if inv.bundle, err = inv.directory(); err != nil {
		return err
	}
	level := &slog.LevelVar{}
	log, closeLog := openLog(filepath.Join(inv.bundle, "log"), level)
	defer closeLog()
	log = log.With("id", inv.id, "namespace", inv.namespace)
	defer func() {
		if err != nil {
			log.Error("the server has ended", "error", err)
		}
	}()
	s := Server{
		Namespace: inv.namespace, ID: inv.id, Bundle: inv.bundle, Address: inv.address, PublishBinary: inv.publishBinary,
		TTRPCAddress: os.Getenv(ttrpcVariable), StateRoot: p.stateRoot(inv.namespace), Debug: inv.debug, Started: func() {}, Log: log,
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	stopTelling := context.AfterFunc(ctx, func() { log.Info("the server is to end", "cause", context.Cause(ctx)) })
	defer stopTelling()
	var listener *net.UnixListener
	socket := inv.socket
	if socket != "" {
		listener, err = listen(ctx, socket)
	} else {
		if from == nil {
			if from, err = inherit(); err != nil {
				return err
			}
		}
		var told handover
		listener, told, err = from.takeOver(end)
		socket, s.TTRPCAddress, s.Debug, s.Options, s.Rlimits = told.Socket, told.TTRPCAddress, told.Debug, told.Options, told.Rlimits
		s.HostMounts, s.Prepared, s.Started = from.mounts, from.prepared, sync.OnceFunc(func() { from.starting.Close() })
		defer s.Started()
		if cold := told.Cold; cold.Reason != "" {
			log.Info("no machine from the pool: the pod starts cold", "reason", cold.Reason, "error", cold.Error)
		}
	}
	if err != nil {
		return err
	}
	defer func() {
		listener.Close()
		err = errors.Join(err, removeStale(context.WithoutCancel(ctx), socket))
	}()
	if s.Debug {
		level.Set(slog.LevelDebug)
	}
	if s.Prepared == nil {
		if err := s.setUp(inv.socket == ""); err != nil {
			return err
		}
	}
	if len(s.Options.Ignored) > 0 {
		s.Log.Debug("options that mean nothing here", "options", s.Options.Ignored)
	}
	s.Listener = accept.Patiently(accept.Peers{UnixListener: listener, Log: s.Log}, s.Log)
	defer handleSignals(end, s.Log)()

	s.Log.Debug("serving", "socket", socket, "pid", os.Getpid())
	if p.Serve == nil {
		return errors.New("this build of the program serves nothing")
	}
	if err := p.Serve(ctx, s); err != nil {
		return err
	}
	s.Log.Debug("the server has ended")
	return nil
}

// setUp gives a new process the mounts and the limits of a server.
func (s *Server) setUp(ownMounts bool) (err error) {
	if ownMounts {
		if err := namespace.SlaveMounts(); err != nil {
			return err
		}
	}
	if s.Rlimits, err = limits.OfCaller(limits.System); err != nil {
		return err
	}
	return liftLimits(s.Log)
}

func liftLimits(log *slog.Logger) error {
	if err := limits.Lift(); err != nil {
		log.Debug("some of the caller's limits remain", "error", err)
	}
	_, err := limits.MoreFiles() // for good
	return err
}

var errNotStarts = errors.New("take over from start (or give -socket)")

// inherit finds what start has left to the server that it has forked.
func inherit() (*inherited, error) {
	for fd, kind := range map[int]uint32{listenerFD: unix.S_IFSOCK, handoverFD: unix.S_IFIFO} {
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != kind {
			return nil, fmt.Errorf("%w: descriptor %d is not start's", errNotStarts, fd)
		}
	}
	return &inherited{
		socket: os.NewFile(listenerFD, "socket"), handover: os.NewFile(handoverFD, "handover"),
		mounts: os.NewFile(mountsFD, "the caller's mount namespace"), starting: os.NewFile(startingFD, "starting"),
	}, nil
}

// takeOver receives from start what is to be served. end is called when start ends
// without having told its caller.
func (i *inherited) takeOver(end context.CancelCauseFunc) (*net.UnixListener, handover, error) {
	fail := func(err error) (*net.UnixListener, handover, error) {
		return nil, handover{}, fmt.Errorf("%w: %w", errNotStarts, err)
	}
	messages := json.NewDecoder(i.handover)
	var told handover
	if err := messages.Decode(&told); err != nil {
		return fail(err)
	}
	general, err := net.FileListener(i.socket)
	i.socket.Close()
	if err != nil {
		return fail(err)
	}
	listener, ok := general.(*net.UnixListener)
	if !ok {
		general.Close()
		return fail(errors.New("it is no unix socket"))
	}
	listener.SetUnlinkOnClose(false)
	go func() { // ends with start, which goes on to answer its caller
		defer i.handover.Close()
		var last answered
		if messages.Decode(&last) != nil || !last.Answered {
			end(errAbandoned)
		}
	}()
	return listener, told, nil
}

// handleSignals ends the server at the signals by which hosts end services, as
// containerd's shims do, and logs what it does at SIGUSR1. A reader that has gone
// does not kill it.
func handleSignals(end context.CancelCauseFunc, log *slog.Logger) (stop func()) {
	signals := make(chan os.Signal, 8)
	// Not ignored, which processes that it starts would inherit.
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPIPE, unix.SIGUSR1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range signals {
			switch s {
			case unix.SIGPIPE:
			case unix.SIGUSR1:
				stacks := make([]byte, 1<<20)
				log.Info("goroutines", "stacks", string(stacks[:runtime.Stack(stacks, true)]))
			default:
				end(fmt.Errorf("signal %v", s))
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// openLog opens the FIFO of which containerd reads the log. Without it, as when a
// person runs the program, there is no log.
func openLog(path string, level slog.Leveler) (*slog.Logger, func()) {
	fifo, err := openFIFO(path)
	if err != nil {
		return slog.New(slog.DiscardHandler), func() {}
	}
	// A panic's last words go there too.
	_ = unix.Dup3(fifo.fd, unix.Stderr, 0) // or to /dev/null
	handler := slog.NewTextHandler(fifo, &slog.HandlerOptions{Level: level, ReplaceAttr: logfile.Logrus})
	return slog.New(logfile.Limit(handler)), fifo.close
}
