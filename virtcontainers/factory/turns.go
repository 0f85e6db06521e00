package factory

import (
	"context"
	"runtime"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/turn"
)

// turnLimit is how long a boot keeps others waiting. On a host with nothing else to do none
// takes as long. On one that is busy otherwise boots are slow, and as few of them as there
// are CPUs have little of these; but many, each begun while the others are slow already,
// would take longer than dial_timeout.
func turnLimit(settings *config.Config) time.Duration { return settings.Agent.DialTimeout / 2 }

// turns is where the machine waits before it boots; nil: it does not wait.
func turns(spec Spec) virtcontainers.Turns {
	atOnce := spec.Config.Runtime.BootsAtOnce
	switch {
	case atOnce < 0:
		return nil
	case atOnce == 0:
		// Not GOMAXPROCS, which containerd sets for its shims.
		atOnce = runtime.NumCPU()
	}
	return turn.Line{Dir: turn.DefaultDir, AtOnce: atOnce, Limit: turnLimit(spec.Config), Last: spec.Spare}
}

// awaitTurn waits for the turn of a machine that is no sandbox's.
func awaitTurn(ctx context.Context, spec Spec) (over func(), err error) {
	line := turns(spec)
	if line == nil {
		return func() {}, nil
	}
	over, err = line.Take(ctx, func(int) {})
	if err != nil && ctx.Err() == nil {
		spec.Log.Debug("the machine boots without waiting for its turn", "reason", err)
		return func() {}, nil
	}
	return over, err
}
