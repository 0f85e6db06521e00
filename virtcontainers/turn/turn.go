package turn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultDir is where all runtimes of a host meet, whatever their root directories.
const DefaultDir = "/run/kata-turns"

// ErrUnavailable says that boots cannot take turns here.
var ErrUnavailable = errors.New("boots take no turns")

const (
	// patience bounds the wait for the directory's lock, which is held for a step.
	patience = 5 * time.Second
	// lookAgain is how often somebody looks whom no event has told to.
	lookAgain = 5 * time.Second
)

// Line is where a boot waits for its turn.
type Line struct {
	// Dir is a directory of the caller's user alone, which is made.
	Dir string
	// AtOnce is how many have a turn at a time.
	AtOnce int
	// Limit is how long the boot keeps others waiting, whatever its process does.
	Limit time.Duration
	// Last: nobody waits for the machine. It comes after all that are not Last.
	Last bool
}

// Take waits for the turn, which ends with done. Each time that it has to wait it says
// first how many boots are before it, those included that have their turn. It returns the
// cause of ctx, or wraps ErrUnavailable.
func (l Line) Take(ctx context.Context, waiting func(ahead int)) (done func(), err error) {
	if err := l.prepare(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	w := waiter{line: l}
	defer w.leave()
	for {
		view, err := w.step(ctx)
		switch {
		case ctx.Err() != nil:
			if view.turn != nil {
				view.turn.leave()
			}
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		case view.turn != nil:
			return view.turn.leave, nil
		}
		waiting(len(view.before) + view.running)
		if err := w.await(ctx, view); err != nil {
			return nil, err
		}
	}
}

// Sweep removes from a line's directory what processes that have died left there. A
// directory that does not exist has nothing.
func Sweep(ctx context.Context, dir string) error {
	lock, err := lockDirectory(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove leftovers from %s: %w", dir, err)
	}
	defer lock.Close()
	if _, err := (Line{Dir: dir}).look("", 0); err != nil {
		return fmt.Errorf("remove leftovers from %s: %w", dir, err)
	}
	return nil
}

// prepare makes the directory, and refuses one in which others could put files: they
// would keep everybody waiting.
func (l Line) prepare() error {
	err := os.Mkdir(l.Dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(l.Dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	const others = 0o022
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&others != 0 {
		return fmt.Errorf("the directory %s belongs to somebody else, or others can write to it: remove it", l.Dir)
	}
	return nil
}

// The names of files: "wait-CLASS-SINCE-RANDOM" and "boot-UNTIL-RANDOM". Their order is
// that of the line.
const (
	waitPrefix = "wait-"
	bootPrefix = "boot-"
)

func (l Line) waitName(now int64) string {
	class := 0
	if l.Last {
		class = 1
	}
	return fmt.Sprintf("%s%d-%019d-%s", waitPrefix, class, now, rand.Text())
}

func (l Line) bootName(now int64) string {
	until := now + min(l.Limit.Nanoseconds(), math.MaxInt64-now)
	return fmt.Sprintf("%s%019d-%s", bootPrefix, until, rand.Text())
}

// until is when a turn keeps nobody waiting any more.
func until(name string) int64 {
	text, _, _ := strings.Cut(strings.TrimPrefix(name, bootPrefix), "-")
	end, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0 // nobody's
	}
	return end
}

// now is the host's time since it was booted, which is the same for all and only grows.
func now() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return ts.Nano(), nil
}

// ticket is a locked file in the line's directory.
type ticket struct {
	path string
	file *os.File
}

// draw makes a ticket. The directory is locked: nobody sees one that is not locked yet.
func draw(path string) (*ticket, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	t := &ticket{path, file}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.leave()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return t, nil
}

// leave gives the ticket back. What cannot be removed is not locked. Idempotent; a nil
// ticket is none.
func (t *ticket) leave() {
	if t != nil {
		_ = os.Remove(t.path) // before it is unlocked, which wakes who waits for it
		_ = t.file.Close()
	}
}

// held tells whether the process of a ticket lives.
func held(path string) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	// Shared, as those have it who have waited for its end.
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return false, fmt.Errorf("look at the lock of %s: %w", path, err)
	}
	return err != nil, nil
}

// view is what a step has seen.
type view struct {
	turn *ticket // nil: not yet
	// before are those that wait before this one, in their order, and running how many
	// have a turn, of which the first ends at the latest then.
	before  []string
	running int
	then    int64
	now     int64
}

// look reads who is there, but for own, and removes who is not any more. The directory is
// locked.
func (l Line) look(own string, now int64) (view, error) {
	entries, err := os.ReadDir(l.Dir) // sorted
	if err != nil {
		return view{}, err
	}
	v := view{now: now, then: math.MaxInt64}
	for _, entry := range entries {
		name := entry.Name()
		path := filepath.Join(l.Dir, name)
		boots := strings.HasPrefix(name, bootPrefix)
		if path == own || !boots && !strings.HasPrefix(name, waitPrefix) {
			continue
		}
		alive, err := held(path)
		switch {
		case err != nil:
			return view{}, err
		case !alive:
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return view{}, err
			}
		case boots && until(name) > now:
			v.running++
			v.then = min(v.then, until(name))
		case !boots && name < filepath.Base(own):
			v.before = append(v.before, path)
		}
	}
	v.before = slices.Clip(v.before)
	return v, nil
}
