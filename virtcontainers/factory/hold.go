package factory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

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
	request, err := slot.Request()
	if err != nil {
		return nil, errors.Join(err, slot.Remove())
	}
	kind, err := slot.Kind(ctx)
	if err != nil {
		return nil, errors.Join(err, slot.Remove())
	}
	prepared := newPrepared(slot, kind, request.Config)
	defer func() {
		if err != nil {
			err = errors.Join(err, prepared.Stop(context.WithoutCancel(ctx)))
		}
	}()
	turn, err := prepared.await(ctx, wait, request)
	if err != nil {
		return nil, err
	}
	defer turn.Close()
	if err := slot.Set(ctx, pool.Booting); err != nil {
		return nil, err
	}
	if err := prepared.boot(ctx); err != nil {
		return nil, prepared.failed(ctx, err)
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
	if errors.Is(err, errMachineEnded) {
		err = errors.Join(err, slot.Pool().Discarded(context.WithoutCancel(ctx), kind, pool.ReasonDied))
	}
	if err != nil {
		return nil, err
	}
	return prepared, nil
}

// await waits until it is the machine's turn to boot. It waits in the machine's own control
// group: who has started this process may be in one that ends with its pod.
func (p *Prepared) await(ctx context.Context, wait *os.File, request pool.Request) (turn *os.File, err error) {
	if err := p.enterGroup(ctx, "machine-"+p.slot.Name()); err != nil {
		return nil, p.failed(ctx, err)
	}
	if err := awaitEnd(ctx, wait, courtesy); err != nil {
		return nil, err
	}
	return p.slot.IdleTurn(ctx, request)
}

// failed lets the pool count a machine that could not be prepared, and returns why not.
func (p *Prepared) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, pool.ErrDiscarded) {
		return err
	}
	return errors.Join(err, p.slot.Pool().Failed(ctx, p.kind, err))
}

// courtesy is how long a machine waits for the start of a pod that took another one. It
// may never come, and the pool would stay empty for all others.
const courtesy = time.Minute

var errMachineEnded = errors.New("the prepared machine has ended")

// awaitEnd waits until every copy of the other end of a pipe is closed, or patience ends.
func awaitEnd(ctx context.Context, pipe *os.File, patience time.Duration) error {
	if pipe == nil {
		return nil
	}
	defer pipe.Close()
	ended := make(chan error, 1)
	go func() { // ends with the pipe, or with this process
		_, err := io.Copy(io.Discard, pipe)
		ended <- err
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("wait for whose place the machine takes: %w", err)
		}
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
