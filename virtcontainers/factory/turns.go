package factory

import (
	"context"
	"runtime"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/turn"
)

// turns is where the machine waits before it boots, which may take as long as limit; nil:
// it does not wait.
func turns(spec Spec, limit time.Duration) virtcontainers.Turns {
	atOnce := spec.Config.Runtime.BootsAtOnce
	switch {
	case atOnce < 0:
		return nil
	case atOnce == 0:
		// Not GOMAXPROCS, which containerd sets for its shims.
		atOnce = runtime.NumCPU()
	}
	return turn.Line{Dir: turn.DefaultDir, AtOnce: atOnce, Limit: limit, Last: spec.Spare}
}

// awaitTurn waits for the turn of a machine that is no sandbox's.
func awaitTurn(ctx context.Context, spec Spec, limit time.Duration) (over func(), err error) {
	line := turns(spec, limit)
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
