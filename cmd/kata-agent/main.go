// Command kata-agent is the only program of the guest: it is PID 1 (see package
// pid1), PID 1's child is the agent that runs the pod's containers, and
// libcontainer starts it once more inside of each container.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/sirupsen/logrus"

	"kata-runtime/guest/bootparam"
	"kata-runtime/guest/container"
	"kata-runtime/guest/network"
	"kata-runtime/guest/pid1"
	"kata-runtime/guest/protocol"
	"kata-runtime/guest/server"
)

const (
	stateDir  = "/run/kata/containers"
	socketDir = "/run/kata/sockets"
	// The agent's memory is taken from the pod's: its heap may grow by half
	// before it is collected. No memory limit on top: a burst of streams would
	// make the collector run without end.
	collectAfter = 50 // per cent
)

// Set by the linker.
var version, commit string

func main() {
	container.RunHelper()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "kata-agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if !pid1.Booting() {
		return errors.New("it is started by PID 1 of a guest, and by nobody else")
	}
	if err := pid1.Boot(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	debug.SetGCPercent(collectAfter)
	// When the pod lacks memory its processes go, not the agent.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("protect agent from lack of memory: %w", err)
	}
	params, err := bootparam.Read()
	if err != nil {
		return err
	}
	log := newLogger(params.Debug)
	log.Debug("agent starts", "uptime", bootparam.Uptime())
	if err := container.PrepareCgroups(); err != nil {
		return err
	}
	cfg := server.Config{
		Log: log, StateDir: stateDir, Version: version + " " + commit, Network: network.New(log),
		SocketDir: socketDir, DialHost: server.DialVsock,
	}
	if cfg.Agent, err = server.ListenVsock(log, protocol.AgentPort); err != nil {
		return err
	}
	if cfg.Streams, err = server.ListenVsock(log, protocol.StreamPort); err != nil {
		return err
	}
	if cfg.Forward, err = server.ListenVsock(log, protocol.ForwardPort); err != nil {
		return err
	}
	if params.Token != "" {
		cfg.Announce = func(ctx context.Context) error {
			return server.AnnounceVsock(ctx, params.ReadyPort, params.Token)
		}
	}
	if params.Template {
		// On a line of its own, whatever the kernel writes.
		cfg.Announce = func(context.Context) error {
			_, err := fmt.Fprintln(os.Stderr, "\n"+protocol.TemplateMarker)
			return err
		}
	}
	return server.Run(ctx, cfg)
}

// newLogger logs to the console, as does libcontainer.
func newLogger(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	logrus.SetLevel(logrus.WarnLevel)
	if verbose {
		level = slog.LevelDebug
		logrus.SetLevel(logrus.DebugLevel)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
