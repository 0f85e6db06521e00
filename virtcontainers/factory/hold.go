package factory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/factory/pool"
)

// Hold prepares a machine in a place of the pool, once nobody is in the way, and offers
// it until consider has found somebody to take it: see pool.Slot.Offer. wait ends with
// who made room for the machine and is to start first; nil: nobody. When nobody takes
// the machine, nothing is left of it.
func Hold(ctx context.Context, slot *pool.Slot, wait *os.File, consider func(*Prepared, *channel.Conn) (taken bool)) (_ *Prepared, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		if err != nil {
			err = errors.Join(err, slot.Remove())
		}
	}()
	request, err := slot.Request()
	if err != nil {
		return nil, err
	}
	if err := awaitEnd(ctx, wait); err != nil {
		return nil, err
	}
	turn, err := slot.Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if !request.Now {
		if err := pool.AwaitIdle(ctx, request.Config); err != nil {
			return nil, err
		}
	}
	if err := slot.Set(ctx, pool.Booting); err != nil {
		return nil, err
	}
	kind, err := slot.Kind(ctx)
	if err != nil {
		return nil, err
	}
	prepared, err := Prepare(ctx, slot, kind, request.Config)
	if err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, slot.Pool().Failed(ctx, kind, err))
		}
		return nil, err
	}
	go func() { // ends with the machine, or with ctx
		select {
		case <-prepared.Ended():
			cancel(errMachineEnded)
		case <-ctx.Done():
		}
	}()
	turn.Close()
	err = slot.Pool().Prepared(ctx, kind)
	if err == nil {
		log := slog.New(prepared.log)
		err = slot.Offer(ctx, log, func(conn *channel.Conn) bool { return consider(prepared, conn) })
	}
	if err != nil {
		if errors.Is(err, errMachineEnded) {
			err = errors.Join(err, slot.Pool().Discarded(context.WithoutCancel(ctx), kind, pool.ReasonDied))
		}
		return nil, errors.Join(err, prepared.Stop(context.WithoutCancel(ctx)))
	}
	return prepared, nil
}

var errMachineEnded = errors.New("the prepared machine has ended")

// awaitEnd waits until every copy of the other end of a pipe is closed.
func awaitEnd(ctx context.Context, pipe *os.File) error {
	if pipe == nil {
		return nil
	}
	defer pipe.Close()
	ended := make(chan error, 1)
	go func() { // ends with the pipe, which is closed
		_, err := io.Copy(io.Discard, pipe)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("wait for whose place the machine takes: %w", err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
