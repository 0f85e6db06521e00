package turn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// waiter is a boot in the line.
type waiter struct {
	line   Line
	ticket *ticket // nil: it has not had to wait yet

	events *watch // nil: it has not been the first yet
	// behind is the ticket that it waits behind, and gone is sent on when that goes.
	behind string
	gone   chan struct{}
	// unclaimed is since when there is a turn that the first in line, idle, does not take;
	// 0: not.
	unclaimed int64
	idle      string
}

// step looks, and takes a turn or joins the line.
func (w *waiter) step(ctx context.Context) (view, error) {
	lock, err := lockDirectory(ctx, w.line.Dir)
	if err != nil {
		return view{}, err
	}
	defer lock.Close()
	now, err := now()
	if err != nil {
		return view{}, err
	}
	own := filepath.Join(w.line.Dir, w.line.waitName(now))
	if w.ticket != nil {
		own = w.ticket.path
	}
	v, err := w.line.look(own, now)
	if err != nil {
		return view{}, err
	}
	switch {
	case w.free(v):
		v.turn, err = draw(filepath.Join(w.line.Dir, w.line.bootName(now)))
		if err == nil {
			w.ticket.leave()
			w.ticket = nil
		}
	case w.ticket == nil:
		w.ticket, err = draw(own)
	}
	return v, err
}

// free tells whether the turn is this one's.
func (w *waiter) free(v view) bool {
	if v.running >= w.line.AtOnce {
		w.unclaimed = 0
		return false
	}
	if len(v.before) == 0 {
		return true
	}
	// Another first is one that has taken its turn: who looks each time that one has just
	// become free does not take it for the same.
	if w.unclaimed == 0 || w.idle != v.before[0] {
		w.unclaimed, w.idle = v.now, v.before[0]
	}
	return v.now-w.unclaimed >= lookAgain.Nanoseconds()
}

// await waits until there is something to look at.
func (w *waiter) await(ctx context.Context, v view) error {
	timer := time.NewTimer(min(lookAgain, time.Duration(v.then-v.now)))
	defer timer.Stop()
	var events <-chan struct{}
	if len(v.before) > 0 {
		w.follow(v.before[len(v.before)-1])
	} else if w.events == nil {
		if w.events = newWatch(w.line.Dir); w.events != nil {
			return nil // what has happened before it watched, a look shows
		}
	}
	if len(v.before) == 0 && w.events != nil {
		events = w.events.seen
	}
	select {
	case <-events:
	case <-w.gone:
		w.behind, w.gone = "", nil
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// follow waits in the background for the end of a ticket. The kernel offers no way to
// abandon that: a goroutine that nobody listens to ends with the ticket.
func (w *waiter) follow(path string) {
	if w.behind == path {
		return
	}
	gone := make(chan struct{}, 1)
	w.behind, w.gone = path, gone
	go func() {
		defer func() { gone <- struct{}{} }()
		file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return // it has gone
		}
		defer file.Close()
		_ = flock(file, unix.LOCK_SH) // an error is no reason not to look
	}()
}

// leave leaves the line.
func (w *waiter) leave() {
	w.ticket.leave()
	if w.events != nil {
		w.events.close()
	}
}

// lockDirectory locks the line for a step, until the file is closed.
func lockDirectory(ctx context.Context, path string) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := flock(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return dir, nil
	} else if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(err, dir.Close())
	}
	locked := make(chan struct{})
	var lockErr error // written before locked is closed
	go func() {
		defer close(locked)
		lockErr = flock(dir, unix.LOCK_EX)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-locked:
		if lockErr != nil {
			return nil, errors.Join(lockErr, dir.Close())
		}
		return dir, nil
	case <-timer.C:
		err = fmt.Errorf("lock %s: not free after %v", path, patience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	go func() { // as in follow
		<-locked
		_ = dir.Close()
	}()
	return nil, err
}

func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("lock %s: %w", file.Name(), err)
			}
			return nil
		}
	}
}

// watch tells that a ticket was given back, or its process has ended.
type watch struct {
	file  *os.File
	seen  chan struct{}
	ended chan struct{} // closed when nobody reads events any more
}

// newWatch watches a directory; nil: there are no more inotify instances, and who waits
// looks from time to time.
func newWatch(dir string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), "inotify")
	// Tickets are opened for writing by those alone who draw them.
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR); err != nil {
		_ = file.Close()
		return nil
	}
	w := &watch{file: file, seen: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		buffer := make([]byte, 4<<10)
		for {
			if _, err := file.Read(buffer); err != nil {
				return
			}
			select {
			case w.seen <- struct{}{}:
			default: // one look shows all
			}
		}
	}()
	return w
}

func (w *watch) close() {
	_ = w.file.Close() // which ends the read
	<-w.ended
}
