// Package notify repeats in the guest's kernel what others change in the files of a
// share: the host, other pods, and this pod's other containers, each of which has mounts
// of its own. So inotify tells a container of it, as on a host.
//
// The file server of the host tells the agent, and answers what is repeated without doing
// it: see package fsevents. Whoever does not have such a server has no file of events.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/fsevents"
)

// Repeater repeats the changes of one share.
type Repeater struct {
	log    *slog.Logger
	share  *os.File
	events int
	// watched is whether any process watches files. What nobody sees is not repeated.
	watched func() bool

	mark fsevents.Mark
	// dir is the directory that was needed last, by its path.
	dir  int
	path string
	buf  []byte
}

// Open asks the server of a share, mounted there, to tell of changes. It returns nil
// where the server does not.
func Open(log *slog.Logger, share string) (*Repeater, error) {
	events, err := unix.Open(path.Join(share, fsevents.FileName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the changes of %s: %w", share, err)
	}
	root, err := os.OpenFile(share, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask for the changes of %s: %w", share, err), unix.Close(events))
	}
	return &Repeater{log: log, share: root, events: events, watched: (&watchers{proc: "/proc"}).any, dir: -1, buf: make([]byte, fsevents.ReadSize)}, nil
}

// Run repeats what it is told until ctx ends, at the next event. It takes the user of its
// thread, which ends with it.
func (r *Repeater) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := r.run(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("changes of volumes by others are no events of inotify any more", "error", err)
		}
	}()
	select {
	case <-done:
	case <-ctx.Done(): // the thread waits for the server, which nothing can interrupt
	}
}

func (r *Repeater) run(ctx context.Context) error {
	// Linux waits without interruption for the answer to a request once a signal has come.
	all := unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	for ctx.Err() == nil {
		n, err := unix.Read(r.events, r.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read changes: %w", err)
		}
		if n == 0 {
			return errors.New("read changes: somebody else reads them")
		}
		events, err := fsevents.Parse(r.buf[:n])
		if err != nil {
			return fmt.Errorf("read changes: %w", err)
		}
		if err := r.repeatAll(events); err != nil {
			return err
		}
	}
	return nil
}

// repeatAll repeats what was told at once.
func (r *Repeater) repeatAll(events []fsevents.Event) error {
	defer r.leave()
	if len(events) == 1 && events[0].Kind == fsevents.Marked {
		r.mark = events[0].Mark
		return actAs(r.mark.UID)
	}
	if !r.watched() {
		return nil
	}
	for i := range events {
		if err := setGroup(r.mark.Group(i)); err != nil {
			return err
		}
		if err := r.repeat(&events[i]); err != nil {
			r.log.Debug("a change is not repeated", "kind", events[i].Kind, "directory", events[i].Directory,
				"name", events[i].Name, "error", err)
		}
	}
	return nil
}

// enter opens a directory of the share.
func (r *Repeater) enter(name string) (int, error) {
	if r.dir >= 0 && r.path == name {
		return r.dir, nil
	}
	r.leave()
	fd, err := r.open(name)
	if err != nil {
		return -1, err
	}
	r.dir, r.path = fd, name
	return fd, nil
}

// open opens a directory, wherever the host says it is, and never through a link.
func (r *Repeater) open(name string) (int, error) {
	fd, err := unix.Openat2(int(r.share.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
	return fd, nil
}

func (r *Repeater) leave() {
	if r.dir >= 0 {
		unix.Close(r.dir)
		r.dir = -1
	}
}

// repeat repeats one change.
func (r *Repeater) repeat(e *fsevents.Event) error {
	if e.Kind == fsevents.Moved {
		defer r.leave() // its path may be another one's now
		return r.move(e)
	}
	dir, err := r.enter(e.Directory)
	if err != nil {
		return err
	}
	switch e.Kind {
	case fsevents.Created:
		return create(dir, e.Name, e.Type)
	case fsevents.Deleted:
		flags := 0
		if e.Type == unix.S_IFDIR {
			defer r.leave()
			flags = unix.AT_REMOVEDIR
		}
		return unix.Unlinkat(dir, e.Name, flags)
	case fsevents.Modified, fsevents.Changed:
		return touch(dir, e.Name, e.Kind == fsevents.Changed)
	case fsevents.Written:
		return closeWritten(dir, e.Name)
	default:
		return fmt.Errorf("unknown kind %d", e.Kind)
	}
}

func create(dir int, name string, kind uint32) error {
	switch kind {
	case unix.S_IFDIR:
		return unix.Mkdirat(dir, name, 0o700)
	case unix.S_IFLNK:
		return unix.Symlinkat("-", dir, name) // the server knows where it leads
	default:
		return unix.Mknodat(dir, name, kind|0o600, 0)
	}
}

// touch sets a file's times to what they are. Linux takes the time of the last change
// alone for a change of the content, and both for one of attributes. Nothing has to be
// opened for that: a program that is open for writing cannot be executed.
func touch(dir int, name string, attributes bool) error {
	if name == "" {
		name = "."
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	if attributes {
		times[0] = st.Atim
	}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// closeWritten opens a file for writing, and closes it. Not a program: who executes it just
// then would be refused.
func closeWritten(dir int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 != 0 {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// move repeats a rename. What comes from a directory that the guest does not know, or goes
// to one, goes through one that only the server knows of.
func (r *Repeater) move(e *fsevents.Event) error {
	from, to := -1, -1
	var err error
	if e.Name != "" {
		if from, err = r.open(e.Directory); err != nil {
			return err
		}
		defer unix.Close(from)
	}
	if e.ToName != "" {
		if to, err = r.open(e.To); err != nil {
			return err
		}
		defer unix.Close(to)
	}
	name, toName := e.Name, e.ToName
	limbo := func(next int) (int, error) {
		return unix.Openat(next, fsevents.Limbo, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	switch {
	case from < 0 && to < 0:
		return errors.New("a rename without names")
	case from < 0:
		if from, err = limbo(to); err != nil {
			return err
		}
		defer unix.Close(from)
		name = toName
	case to < 0:
		if to, err = limbo(from); err != nil {
			return err
		}
		defer unix.Close(to)
		toName = name
	}
	return unix.Renameat(from, name, to, toName)
}

// actAs makes the thread's requests those of a user, with all capabilities of the agent.
func actAs(uid uint32) error {
	const ask = ^uintptr(0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ask, 0, 0); uint32(now) != uid {
		return fmt.Errorf("act as user %d: %w", uid, unix.EPERM)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	return nil
}

func setGroup(gid uint32) error {
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, ^uintptr(0), 0, 0); uint32(now) != gid {
		return fmt.Errorf("act as group %d: %w", gid, unix.EPERM)
	}
	return nil
}

// watchers finds processes that watch files.
type watchers struct {
	proc string
	// last is a descriptor by which one did when it was last asked: while it is there, no
	// other is looked for.
	last string
}

// any looks whether a process other than the agent has anything that watches files.
func (w *watchers) any() bool {
	if w.last != "" && watches(w.last) {
		return true
	}
	w.last = ""
	processes, err := os.ReadDir(w.proc)
	if err != nil {
		return true
	}
	self := os.Getpid()
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == self {
			continue
		}
		fds := path.Join(w.proc, p.Name(), "fd")
		list, err := os.ReadDir(fds)
		if err != nil {
			continue
		}
		for _, fd := range list {
			if link := path.Join(fds, fd.Name()); watches(link) {
				w.last = link
				return true
			}
		}
	}
	return false
}

// watches is whether a descriptor is an instance of inotify or fanotify.
func watches(link string) bool {
	target, err := os.Readlink(link)
	return err == nil && strings.HasPrefix(target, "anon_inode:") && strings.Contains(target, "notify")
}
