package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// watcher is a pod's inotify instance: a host has few of them (the sysctl
// fs.inotify.max_user_instances).
type watcher struct {
	log  *slog.Logger
	file *os.File

	overflowed bool // the log has it that events were lost; belongs to run

	// mu is never held while a container's mu is taken.
	mu     sync.Mutex
	places map[int32][]place // by watch; several binds may show one directory
}

// place is a watched directory of a container.
type place struct {
	container *Container
	bind      *bind
	dir       string // relative to the bind mount
}

// newWatcher makes an instance that counts as one of a user's, with its watches.
func newWatcher(log *slog.Logger, user int) (*watcher, error) {
	fd, err := initAs(user)
	if err != nil {
		return nil, fmt.Errorf("watch directories (fs.inotify.max_user_instances): %w", err)
	}
	return &watcher{log: log, file: os.NewFile(uintptr(fd), "inotify"), places: map[int32][]place{}}, nil
}

// initAs makes an inotify instance as a user, whom the kernel counts it for: it lets
// root have no more of them than anybody else, and pods without a user of their own
// share those with all of the host's services. 0 is the process's own user.
func initAs(user int) (fd int, err error) {
	if user == 0 {
		return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	}
	err = osthread.Run(func() error { // the thread's alone, which ends with it
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(user), keep); errno != 0 {
			return fmt.Errorf("act as user %d: %w", user, errno)
		}
		fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		return err
	})
	return fd, err
}

// watched are the events that can mean a change of sockets. IN_ATTRIB: servers
// bind first, and then set mode and owner.
const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ATTRIB |
	unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// add watches a directory.
func (w *watcher) add(dir *os.File, p place) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("watch %s: %w", p.dir, err)
	}
	wd := -1
	controlErr := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), watched)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return -1, fmt.Errorf("watch %s (fs.inotify.max_user_watches): %w", p.dir, err)
	}
	w.places[int32(wd)] = append(w.places[int32(wd)], p)
	return int32(wd), nil
}

// remove watches a directory no more. It is legal for nil and for no watch.
func (w *watcher) remove(wd int32, p place) {
	if w == nil || wd < 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(wd, func(other place) bool { return other == p })
}

// forget watches nothing of a container any more.
func (w *watcher) forget(c *Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wd := range maps.Clone(w.places) {
		w.drop(wd, func(p place) bool { return p.container == c })
	}
}

// drop removes places of a watch, and the watch with the last.
func (w *watcher) drop(wd int32, which func(place) bool) {
	places, known := w.places[wd]
	if !known {
		return
	}
	places = slices.DeleteFunc(slices.Clone(places), which)
	if len(places) > 0 {
		w.places[wd] = places
		return
	}
	delete(w.places, wd)
	if raw, err := w.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			// It fails for a directory that is gone, with its watch.
			_, _ = unix.InotifyRmWatch(int(fd), uint32(wd))
		})
	}
}

func (w *watcher) close() { w.file.Close() }

// run handles events until the watcher is closed.
func (w *watcher) run() {
	buffer := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.log.Warn("sockets that appear later are not relayed", "error", err)
			}
			return
		}
		changed := map[*Container]bool{}
		for events := buffer[:n]; len(events) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(events))
			mask := binary.NativeEndian.Uint32(events[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
			w.handle(wd, mask, unix.ByteSliceToString(events[unix.SizeofInotifyEvent:end]), changed)
			events = events[end:]
		}
		for c := range changed {
			c.notify()
		}
	}
}

// handle handles one event, and notes the containers whose sockets changed.
func (w *watcher) handle(wd int32, mask uint32, name string, changed map[*Container]bool) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		level := slog.LevelWarn
		if w.overflowed { // containers can bring it about as often as they like
			level = slog.LevelDebug
		}
		w.overflowed = true
		w.log.Log(context.Background(), level, "too many changes in bind-mounted directories at once: looking for sockets anew")
		for _, c := range w.containers() {
			c.rescan(w)
			changed[c] = true
		}
		return
	}
	w.mu.Lock()
	places := slices.Clone(w.places[wd])
	if mask&unix.IN_IGNORED != 0 {
		delete(w.places, wd)
	}
	w.mu.Unlock()
	if name == "" {
		return // the directory itself
	}
	for _, p := range places {
		if p.container.event(w, p, mask, name) {
			changed[p.container] = true
		}
	}
}

func (w *watcher) containers() []*Container {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[*Container]struct{}{}
	for _, places := range w.places {
		for _, p := range places {
			seen[p.container] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(seen))
}
