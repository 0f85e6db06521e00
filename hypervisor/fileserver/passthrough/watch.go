package passthrough

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What others change in a mount that is watched (Cache.Watch) is told to the guest: see
// package fsevents. The host's inotify tells of it, of directories that the guest
// remembers, and of files that are mounted. It remembers those that are in use: in a
// volume it forgets at once what nobody has open, or watches.
//
// It tells as well of what this process does for its guest, of which the guest's kernel
// has told already. So each such call says first what it is to cause, and that is taken
// off. By the end of the call its events are in the kernel's queue, in order. What is
// not taken off once the queue has been read to its end after the call was nothing: two
// events that are the same become one, if nobody has read the first.

// watchedEvents are the changes that are told. Opening, reading and closing is not.
const watchedEvents = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB

const (
	// defaultWatches bounds the directories and files that are watched.
	defaultWatches = 4096
	// watchPause is between two readings of the queue, so that thousands of changes
	// take a few.
	watchPause = 10 * time.Millisecond
	// partnerPause is how long the other half of a rename may take, in milliseconds.
	partnerPause = 1
	// mostRead bounds what is read at once: the kernel's queue has half of that.
	mostRead = 32 << 10
	// mostExpected is when expectations are looked through though nothing was told.
	mostExpected = 1024
)

// watcher watches the host's directories.
type watcher struct {
	fs   *FileSystem
	log  *slog.Logger
	most int
	user int
	// active is whether the guest has asked to be told.
	active atomic.Bool

	mu      sync.Mutex // before that of the table of nodes
	fd      int        // of inotify, -1 before it is asked for
	wake    int        // ends waiting for it
	byID    map[uint64]*watch
	byWatch map[int32][]*watch // one file may be several nodes
	order   list.List          // oldest first
	// expected is what this process's own calls cause; touched are those of the
	// present reading.
	expected map[happening]*expectation
	touched  []happening
	// hidden are files of which a change was taken off: see hide.
	hidden map[happening]time.Time
	warned map[string]time.Time
	// All changes before complete were read, those since lost may not be told: see lose.
	complete, lost time.Time
	losses         chan struct{} // has one when there are some

	queue eventQueue
}

// watch is a watched node.
type watch struct {
	id      uint64
	wd      int32
	mount   uint32
	element *list.Element
}

// happening is one event of a node: of a name in a directory, or of itself.
type happening struct {
	id   uint64
	name string
	bit  uint32
}

// expectation counts the calls that cause an event.
type expectation struct {
	// flying are under way; early ones have had their event.
	flying, early int
	// settled have ended since the reading of the queue began, old ones before.
	settled, old int
}

func newWatcher(fs *FileSystem, o *Options) *watcher {
	w := &watcher{
		fs: fs, log: o.Logger, most: o.MaxWatches, user: o.WatchUser, fd: -1, wake: -1,
		byID: map[uint64]*watch{}, byWatch: map[int32][]*watch{}, expected: map[happening]*expectation{},
		hidden: map[happening]time.Time{}, warned: map[string]time.Time{}, losses: make(chan struct{}, 1),
	}
	if w.most <= 0 {
		w.most = defaultWatches
	}
	w.queue.init()
	return w
}

// begin watches from now on what the guest comes to know.
func (w *watcher) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		if !w.active.Load() {
			w.complete = time.Now() // nothing was watched
			w.active.Store(true)
		}
		return nil
	}
	fd, err := initInotify(w.user)
	if err != nil {
		return fmt.Errorf("watch volumes (fs.inotify.max_user_instances): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("watch volumes: %w", err)
	}
	w.fd, w.wake, w.complete = fd, wake, time.Now()
	w.fs.watching.Go(func() { w.run(fd, wake) })
	w.fs.watching.Go(w.makeUp)
	w.fs.watching.Go(func() {
		<-w.fs.closing
		w.rouse()
	})
	w.active.Store(true)
	return nil
}

// initInotify makes an instance that the kernel counts for a user: root has no more of
// them than anybody else, and services of the host need them.
func initInotify(user int) (fd int, err error) {
	const flags = unix.IN_CLOEXEC | unix.IN_NONBLOCK
	if user == 0 {
		return unix.InotifyInit1(flags)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(user), keep); errno != 0 {
			err = fmt.Errorf("act as user %d: %w", user, errno)
			return
		}
		fd, err = unix.InotifyInit1(flags)
	}()
	<-done
	return fd, err
}

// rouse has the queue read though nothing is in it.
func (w *watcher) rouse() {
	one := [8]byte{1}
	_, _ = unix.Write(w.wake, one[:])
}

func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		unix.Close(w.fd)
		unix.Close(w.wake)
		w.fd = -1
	}
}

// reset forgets all: the guest has started again.
func (w *watcher) reset() {
	w.active.Store(false)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, each := range w.byID {
		w.drop(each)
	}
	clear(w.expected)
	w.touched = nil
	clear(w.hidden)
	w.lost = time.Time{}
	w.queue.reset()
}

// add watches a node, which fd refers to. The oldest watch is given up for it where there
// are too many.
func (w *watcher) add(id uint64, m *mount, fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget()
	if w.fd < 0 || w.byID[id] != nil {
		return
	}
	if len(w.byID) >= w.most {
		w.warn("more directories are in use than can be watched: changes in the ones that were not used for longest are not told to the guest",
			"watched", w.most)
		w.drop(w.order.Front().Value.(*watch))
	}
	path := w.fs.procFD + itoa(fd)
	wd, err := unix.InotifyAddWatch(w.fd, path, watchedEvents)
	if errors.Is(err, unix.ENOSPC) && w.order.Len() > 0 {
		w.drop(w.order.Front().Value.(*watch))
		wd, err = unix.InotifyAddWatch(w.fd, path, watchedEvents)
	}
	if err != nil {
		w.warn("changes of a volume are not told to the guest (fs.inotify.max_user_watches)", "error", err)
		return
	}
	each := &watch{id: id, wd: int32(wd), mount: m.index}
	each.element = w.order.PushBack(each)
	w.byID[id] = each
	w.byWatch[each.wd] = append(w.byWatch[each.wd], each)
	if !w.fs.nodes.setWatched(id, true) { // the guest has forgotten it meanwhile
		w.drop(each)
	}
}

// drop watches a node no more. w is locked.
func (w *watcher) drop(each *watch) {
	w.fs.nodes.setWatched(each.id, false)
	delete(w.byID, each.id)
	w.order.Remove(each.element)
	left := w.byWatch[each.wd]
	for i := range left {
		if left[i] == each {
			left = append(left[:i:i], left[i+1:]...)
			break
		}
	}
	if len(left) > 0 {
		w.byWatch[each.wd] = left
		return
	}
	if _, ok := w.byWatch[each.wd]; !ok {
		return // the kernel has dropped it
	}
	delete(w.byWatch, each.wd)
	_, _ = unix.InotifyRmWatch(w.fd, uint32(each.wd))
}

// forget drops what the guest has forgotten. w is locked.
func (w *watcher) forget() {
	for _, id := range w.fs.nodes.takeUnwatched() {
		if each := w.byID[id]; each != nil {
			w.drop(each)
		}
	}
}

// warn logs what happens often only now and then. w is locked.
func (w *watcher) warn(message string, args ...any) {
	const often = time.Minute
	if now := time.Now(); now.Sub(w.warned[message]) > often {
		w.warned[message] = now
		w.log.Warn(message, args...)
	}
}

// run reads the queue whenever there is something in it.
func (w *watcher) run(fd, wake int) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	buf := make([]byte, 64<<10)
	pause := time.NewTimer(watchPause)
	defer pause.Stop()
	for {
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			w.log.Warn("cannot watch volumes any more", "error", err)
			return
		}
		var number [8]byte
		_, _ = unix.Read(wake, number[:])
		select {
		case <-w.fs.closing:
			return
		default:
		}
		w.read(fd, buf)
		pause.Reset(watchPause)
		select {
		case <-w.fs.closing:
			return
		case <-pause.C:
		}
	}
}
