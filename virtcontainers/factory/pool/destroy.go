package pool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/store"
)

// Destroy ends every prepared machine, and removes the pool. Machines that pods have
// taken are theirs.
func (p *Pool) Destroy(ctx context.Context) error {
	ending, err := p.discardAll(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	patience, cancel := context.WithTimeout(ctx, destroyPatience)
	defer cancel()
	for _, record := range ending {
		err := awaitEnd(ctx, patience, record)
		if err == nil {
			err = p.sweepOne(ctx, record)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end the prepared machine %s: %w", record.Name, err))
		}
	}
	return errors.Join(append(errs, p.remove(ctx))...)
}

// sweepOne is sweep for what is as good as gone.
func (p *Pool) sweepOne(ctx context.Context, record Record) error {
	ctx, cancel := context.WithTimeout(ctx, destroyPatience)
	defer cancel()
	return p.sweep(ctx, record.Name, record)
}

// discardAll takes every machine out of the pool, and returns those whose processes are
// about to end, or have ended and left something.
func (p *Pool) discardAll(ctx context.Context) (ending []Record, err error) {
	lock, err := p.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		record, err := readRecord(p.machine(name))
		switch {
		case err != nil && held(p.machine(name)), record.State == Taken && store.Alive(record.PID, record.StartTime):
			// a pod's, or about to be removed by its own process
		case err == nil && store.Alive(record.PID, record.StartTime):
			// One that ends just now by itself removes its record, and is waited for too.
			if err := p.discard(record); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			ending = append(ending, record)
		default:
			record.Name = name // which may be all that is known
			ending = append(ending, record)
		}
	}
	return ending, errors.Join(errs...)
}

// awaitEnd waits for the end of a machine's process, which after patience is killed. A
// process whose first thread is a zombie has not ended: the others may still have its
// files, and with them the lock by which the pool's directory stays.
func awaitEnd(ctx, patience context.Context, record Record) error {
	if began, err := store.StartTime(record.PID); err != nil || began != record.StartTime { // its pid may be another's
		return nil // it is gone
	}
	err := store.AwaitExit(patience, record.PID)
	if err == nil || ctx.Err() != nil || !store.Alive(record.PID, record.StartTime) {
		return err
	}
	end(record, unix.SIGKILL)
	ctx, cancel := context.WithTimeout(ctx, destroyPatience)
	defer cancel()
	return store.AwaitExit(ctx, record.PID)
}

// remove removes the pool's own files. Pods whose machines were prepared have their
// share mounted on the directory for that, each in its own mount namespace; it stays
// for them, since to remove it is to unmount that.
func (p *Pool) remove(ctx context.Context) error {
	lock, err := p.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if names, err := p.names(); err != nil || len(names) > 0 {
		return err // somebody fills it again
	}
	if err := p.removeTemplates(); err != nil {
		return err
	}
	for _, path := range []string{p.path(countersName), p.path(countersName + temporarySuffix), p.machines()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the pool: %w", err)
		}
	}
	mounts, err := os.Open(p.path(mountName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the pool: %w", err)
	}
	defer mounts.Close()
	if unix.Flock(int(mounts.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // pods live
	}
	for _, path := range []string{p.path(mountName), p.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the pool: %w", err)
		}
	}
	return nil
}

const temporarySuffix = ".tmp"
