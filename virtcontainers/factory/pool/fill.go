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
	names, err := p.names()
	if err != nil {
		return 0, err
	}
	there, left := p.clean(ctx, names, fit, request.Now)
	left = errors.Join(left, p.cleanTemplates(fit))
	for ; there+started < size; started++ {
		if err := p.start(fit, request, start); err != nil {
			return started, errors.Join(err, left)
		}
	}
	return started, left
}

// leftPatience is how long a command that makes a pod, and others that wait for the lock,
// wait for what is left of machines that have died. The next one tries again.
const leftPatience = 2 * time.Second

// clean removes what is left of machines that have died, ends those that no pod of
// this configuration can take any more, and counts those that fit. With now, those that
// still wait for others go too. The pool is locked. After an error it goes on with the
// others.
func (p *Pool) clean(ctx context.Context, names []string, fit Fit, now bool) (fitting int, _ error) {
	patience, cancel := context.WithTimeout(ctx, leftPatience)
	defer cancel()
	discarded := make(map[Kind]map[Reason]int)
	var errs []error
	discard := func(record Record, why Reason, how error) {
		if how != nil {
			errs = append(errs, how)
			return
		}
		if discarded[record.Fit.Kind] == nil {
			discarded[record.Fit.Kind] = make(map[Reason]int)
		}
		discarded[record.Fit.Kind][why]++
	}
	for _, name := range names {
		record, err := readRecord(p.machine(name))
		switch {
		case err != nil && held(p.machine(name)): // its process is about to end
		case err != nil, record.gone() && !store.Alive(record.PID, record.StartTime): // it was counted when it went
			errs = append(errs, p.sweep(patience, name, record))
		case !store.Alive(record.PID, record.StartTime):
			discard(record, ReasonDied, p.sweep(patience, name, record))
		case record.State == Ending && time.Since(record.Since) > destroyPatience: // it does not obey
			end(record, unix.SIGKILL)
		case record.gone():
		case record.Fit.Kind != fit.Kind || record.Fit.Source != fit.Source: // another pool's
		case record.Fit == fit && record.State == Waiting && now:
			errs = append(errs, p.discard(record))
		case record.Fit == fit:
			fitting++
		default:
			discard(record, record.Fit.Misfit(fit), p.discard(record))
		}
	}
	if len(discarded) > 0 {
		errs = append(errs, p.change(func(c *Counters) {
			for kind, reasons := range discarded {
				for reason, n := range reasons {
					c.of(kind).Discarded[reason] += n
				}
			}
		}))
	}
	return fitting, errors.Join(errs...)
}

// sweep removes what a machine has left whose process has died, in the pool and its
// control group. ctx bounds the wait for the last processes of that.
func (p *Pool) sweep(ctx context.Context, name string, record Record) error {
	group, err := record.Cgroup.Open()
	if err != nil {
		return err
	}
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
