package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxOOMEvents bounds the events that nobody has asked for yet; the oldest are
// dropped.
const maxOOMEvents = 1024

// oomWatcher reports containers in which the kernel killed a process for lack
// of memory. The kernel announces each change of a cgroup's memory.events.
type oomWatcher struct {
	log     *slog.Logger
	inotify *os.File
	done    chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex // guards what follows
	watches map[int32]*oomWatch
	events  []string      // ids, oldest first
	arrived chan struct{} // closed and replaced when an event arrives
}

type oomWatch struct {
	id, dir string
	kills   uint64
	events  uint64 // how many were queued
}

func newOOMWatcher(log *slog.Logger) (*oomWatcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for lack of memory: %w", err)
	}
	w := &oomWatcher{
		log: log, inotify: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}),
		watches: map[int32]*oomWatch{}, arrived: make(chan struct{}),
	}
	go w.run()
	return w, nil
}

// add begins to watch the cgroup dir of a container; nothing for an empty dir.
func (w *oomWatcher) add(id, dir string) {
	if dir == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.control(func(fd int) error {
		wd, err := unix.InotifyAddWatch(fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY)
		if err == nil {
			w.watches[int32(wd)] = &oomWatch{id: id, dir: dir}
		}
		return err
	})
	if err != nil {
		w.log.Warn("lack of memory will not be reported", "container", id, "error", err)
	}
}

func (w *oomWatcher) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wd, watch := range w.watches {
		if watch.id != id {
			continue
		}
		delete(w.watches, wd)
		// The kernel has removed it already when the cgroup is gone.
		_ = w.control(func(fd int) error {
			_, err := unix.InotifyRmWatch(fd, uint32(wd))
			return err
		})
	}
}

func (w *oomWatcher) control(f func(fd int) error) error {
	raw, err := w.inotify.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// close ends the watcher's goroutine and waits for it.
func (w *oomWatcher) close() {
	w.inotify.Close()
	<-w.done
}

// run is the goroutine of the watcher.
func (w *oomWatcher) run() {
	defer close(w.done)
	buffer := make([]byte, 4096)
	for {
		n, err := w.inotify.Read(buffer)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.log.Error("lack of memory is not reported any more", "error", err)
			}
			return
		}
		for events := buffer[:n]; len(events) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(events))
			length := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
			w.changed(wd)
			events = events[min(length, len(events)):]
		}
	}
}

func (w *oomWatcher) changed(wd int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if watch, ok := w.watches[wd]; ok {
		w.check(watch)
	}
}

// collect queues what the kernel has counted already and not announced yet, and
// returns how many events of the container were queued in all.
func (w *oomWatcher) collect(id string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, watch := range w.watches {
		if watch.id == id {
			w.check(watch)
			return watch.events
		}
	}
	return 0
}

// check queues an event if the kernel has counted more kills. The caller holds
// mu.
func (w *oomWatcher) check(watch *oomWatch) {
	kills := readOOMKills(watch.dir)
	if kills <= watch.kills {
		return
	}
	watch.kills = kills
	watch.events++
	w.events = append(w.events, watch.id)
	if len(w.events) > maxOOMEvents {
		w.events = w.events[1:]
	}
	close(w.arrived)
	w.arrived = make(chan struct{})
}

func (w *oomWatcher) next(ctx context.Context) (string, error) {
	for {
		w.mu.Lock()
		arrived := w.arrived
		if len(w.events) > 0 {
			id := w.events[0]
			w.events = w.events[1:]
			w.mu.Unlock()
			return id, nil
		}
		w.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for lack of memory: %w", context.Cause(ctx))
		}
	}
}

// NextOOM returns the id of the next container in which the kernel killed
// something for lack of memory. Each event is returned once.
func (r *Runtime) NextOOM(ctx context.Context) (string, error) {
	return r.oom.next(ctx)
}

// oomKills returns how many processes were killed in the container so far.
func (c *container) oomKills() uint64 { return c.memoryEvents()["oom_kill"] }

// memoryEvents are the counters of the container's cgroup.
func (c *container) memoryEvents() map[string]uint64 {
	dir := c.cgroupDir()
	if dir == "" {
		return nil
	}
	return readMemoryEvents(dir)
}

// readMemoryEvents reads the counters of a cgroup; a cgroup that is gone, or has
// no memory controller, has none.
func readMemoryEvents(dir string) map[string]uint64 {
	data, err := os.ReadFile(filepath.Join(dir, "memory.events"))
	if err != nil {
		return nil
	}
	events := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			events[name] = n
		}
	}
	return events
}

// readOOMKills reads the counter of a cgroup.
func readOOMKills(dir string) uint64 { return readMemoryEvents(dir)["oom_kill"] }
