package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/store"
)

// Fill starts processes until the pool has size machines that fit, those included that
// are being prepared, and throws away what has died or does not fit any more. start
// forks a process that calls Occupy with these arguments, and returns its pid.
func (p *Pool) Fill(ctx context.Context, fit Fit, request Request, size int, start func(dir, name string, lock *os.File) (pid int, err error)) (started int, err error) {
	if err := p.prepare(); err != nil {
		return 0, err
	}
	lock, err := p.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	there, err := p.clean(ctx, fit, request.Now)
	if err != nil {
		return 0, err
	}
	for ; there+started < size; started++ {
		if err := p.start(fit, request, start); err != nil {
			return started, err
		}
	}
	return started, nil
}

// clean removes what is left of machines that have died, ends those that no pod of
// this configuration can take any more, and counts those that fit. With now, those that
// still wait for others go too. The pool is locked.
func (p *Pool) clean(ctx context.Context, fit Fit, now bool) (fitting int, err error) {
	names, err := p.names()
	if err != nil {
		return 0, err
	}
	discarded := make(map[Reason]int)
	for _, name := range names {
		record, err := readRecord(p.machine(name))
		switch {
		case errors.Is(err, fs.ErrNotExist) && !held(p.machine(name)), err == nil && !store.Alive(record.PID, record.StartTime):
			if err := p.sweep(ctx, name, record); err != nil {
				return 0, err
			}
			discarded[ReasonDied]++
		case err != nil, record.gone(): // or its process is about to end
		case record.Fit.Kind != fit.Kind || record.Fit.Source != fit.Source: // another pool's
		case record.Fit == fit && record.State == Waiting && now:
			if err := p.discard(record); err != nil {
				return 0, err
			}
		case record.Fit == fit:
			fitting++
		default:
			discarded[record.Fit.Misfit(fit)]++
			if err := p.discard(record); err != nil {
				return 0, err
			}
		}
	}
	if len(discarded) == 0 {
		return fitting, nil
	}
	return fitting, p.change(func(c *Counters) {
		for reason, n := range discarded {
			c.of(fit.Kind).Discarded[reason] += n
		}
	})
}

// sweep removes what a machine has left whose process has died, in the pool and in its
// control group.
func (p *Pool) sweep(ctx context.Context, name string, record Record) error {
	group, err := record.Cgroup.Open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, destroyPatience)
	defer cancel()
	if err := group.Remove(ctx); err != nil {
		return fmt.Errorf("remove what is left of the prepared machine %s: %w", name, err)
	}
	return removeMachine(p.machine(name))
}

// discard takes a machine out of the pool and lets its process end. The pool is locked:
// a machine that is there has not been taken.
func (p *Pool) discard(record Record) error {
	record.State, record.Since = Ending, time.Now().UTC()
	if err := writeJSON(filepath.Join(p.machine(record.Name), recordName), record); err != nil {
		return err
	}
	end(record, unix.SIGTERM)
	return nil
}

// gone tells that nobody can take the machine any more.
func (r *Record) gone() bool { return r.State == Taken || r.State == Ending }

// held tells whether somebody has the lock of a machine's directory.
func held(dir string) bool {
	file, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer file.Close()
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// end sends a signal to a machine's process, and to nobody who has its pid later.
func end(record Record, signal unix.Signal) {
	fd, err := unix.PidfdOpen(record.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if store.Alive(record.PID, record.StartTime) {
		_ = unix.PidfdSendSignal(fd, signal, nil, 0) // it may have ended
	}
}

// start forks the process of a new machine. The pool is locked.
func (p *Pool) start(fit Fit, request Request, start func(dir, name string, lock *os.File) (int, error)) (err error) {
	name := strings.ToLower(rand.Text()[:12])
	dir := p.machine(name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a place for a machine: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeMachine(dir))
		}
	}()
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("lock a machine's directory: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock a machine's directory: %w", err)
	}
	if err := writeJSON(filepath.Join(dir, requestName), request); err != nil {
		return err
	}
	pid, err := start(p.dir, name, lock)
	if err != nil {
		return err
	}
	began, err := store.StartTime(pid)
	if err != nil {
		return fmt.Errorf("the process of a prepared machine has ended early: %w", err)
	}
	return writeJSON(filepath.Join(dir, recordName), Record{
		Name: name, State: Waiting, PID: pid, StartTime: began, Since: time.Now().UTC(), Fit: fit,
	})
}

// removeMachine removes what a machine has in the pool.
func removeMachine(dir string) error {
	var errs []error
	for _, name := range []string{socketName, requestName, recordName, recordName + temporarySuffix} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what is left of a prepared machine: %w", err)
	}
	return nil
}

// destroyPatience is how long a machine may take to end before it is killed.
const destroyPatience = 20 * time.Second
