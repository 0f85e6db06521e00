package sockets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol/relay"
)

// How far sockets are looked for in a bind-mounted directory.
const (
	// maxDepth is how deep below it, maxDirectories in how many directories,
	// itself included.
	maxDepth       = 3
	maxDirectories = 64
	// maxEntries is how many entries of a directory are looked at when it is
	// read; what appears later is seen whatever their number.
	maxEntries = 4096
	// maxSockets is how many sockets a container is told of.
	maxSockets = 128
)

// within keeps a lookup in the file system of the bind mount, whatever the
// guest has put there.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func (b *bind) openat(name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(b.root.Fd()), name, &unix.OpenHow{
		Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: within,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	// The name leads package os back to the directory, where a file system does
	// not say of what type an entry is.
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
}

// errNoSocket says that a name is no socket, or none any more.
var errNoSocket = errors.New("it is no socket")

// open opens a socket with O_PATH.
func (b *bind) open(socketPath string) (*os.File, error) {
	if b.direct {
		fd, err := unix.FcntlInt(b.root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open the socket: %w", err)
		}
		return os.NewFile(uintptr(fd), b.root.Name()), nil
	}
	file, err := b.openat(socketPath, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err = unix.Fstat(int(file.Fd()), &stat); err == nil && stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = errNoSocket
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open %s: %w", socketPath, err)
	}
	return file, nil
}

// scan watches a directory and those below it and finds their sockets. The
// caller holds mu. It tells whether it found any.
func (c *Container) scan(watch *watcher, b *bind, from string) (found bool) {
	queue := []string{from}
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		if _, known := b.dirs[dir]; known {
			continue
		}
		if len(b.dirs) >= maxDirectories {
			c.relay.log.Debug("too many directories to look for sockets in", "container", c.id, "bind", b.name)
			return found
		}
		for _, entry := range c.enter(watch, b, dir) {
			name := path.Join(dir, entry.Name())
			switch {
			case entry.IsDir() && strings.Count(name, "/") < maxDepth:
				queue = append(queue, name)
			case entry.Type() == fs.ModeSocket:
				found = c.look(b, name) || found
			}
		}
	}
	return found
}

// enter begins to watch a directory and reads it. What cannot be read has no
// sockets.
func (c *Container) enter(watch *watcher, b *bind, dir string) []fs.DirEntry {
	file, err := b.openat(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer file.Close()
	b.dirs[dir] = -1
	if watch != nil {
		// Before it is read, so that nothing is missed in between.
		if b.dirs[dir], err = watch.add(file, place{c, b, dir}); err != nil {
			c.warnOnce(&c.unwatched, "sockets that appear later are not relayed", "directory", dir, "error", err)
		}
	}
	entries, err := file.ReadDir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		c.relay.log.Debug("read a directory for its sockets", "container", c.id, "directory", dir, "error", err)
	}
	return entries
}

// look finds out what a name in a bind mount is now, and tells whether anything
// has changed that the agent should know. A name that is not UTF-8 is passed
// over: the agent's protocol has no way to say it, and would refuse the whole
// message. The caller holds mu.
func (c *Container) look(b *bind, name string) bool {
	if !utf8.ValidString(name) {
		return false
	}
	_, known := b.sockets[name]
	socket, err := b.open(name)
	if err == nil {
		defer socket.Close()
		c.awaitBind(b, path.Dir(name))
		var stat unix.Stat_t
		err = unix.Fstat(int(socket.Fd()), &stat)
		if err == nil && hosted(socket) && (known || c.room(name)) {
			b.sockets[name] = describe(name, &stat)
			return true // its mode may be another, or itself
		}
	}
	delete(b.sockets, name)
	return known
}

// awaitBind waits for a server that is about to bind to a socket in a directory:
// the kernel makes the inode and binds to it without letting go of the
// directory, which reading the directory needs.
func (c *Container) awaitBind(b *bind, dir string) {
	file, err := b.openat(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	defer file.Close()
	_, _ = file.ReadDir(1) // what it reads does not matter
}

// room tells whether one more socket can be told of. The caller holds mu.
func (c *Container) room(name string) bool {
	count := 0
	for _, b := range c.binds {
		count += len(b.sockets)
	}
	if count >= maxSockets || len(name) > relay.MaxName {
		c.warnOnce(&c.crowded, "sockets are not relayed: there are too many, or a path is too long", "socket", name)
		return false
	}
	return true
}

// warnOnce warns of what a container can bring about as often as it likes: only
// the first time is more than a detail, or it could fill the log. The caller
// holds mu, which guards warned.
func (c *Container) warnOnce(warned *bool, message string, args ...any) {
	level := slog.LevelWarn
	if *warned {
		level = slog.LevelDebug
	}
	*warned = true
	c.relay.log.Log(context.Background(), level, message, append([]any{"container", c.id}, args...)...)
}

// event takes note of a change in a watched directory. It tells whether the
// agent should know.
func (c *Container) event(watch *watcher, p place, mask uint32, name string) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := p.bind
	if c.binds[b.name] != b { // closed
		return false
	}
	full := path.Join(p.dir, name)
	if mask&unix.IN_ISDIR == 0 {
		return c.look(b, full)
	}
	if mask&(unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
		changed = c.leaveDirectory(watch, b, full)
	}
	if mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && strings.Count(full, "/") < maxDepth {
		changed = c.scan(watch, b, full) || changed
	}
	return changed
}

// leaveDirectory forgets a directory and those below it.
func (c *Container) leaveDirectory(watch *watcher, b *bind, dir string) (changed bool) {
	for name, wd := range b.dirs {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			delete(b.dirs, name)
			watch.remove(wd, place{c, b, name})
		}
	}
	for name := range b.sockets {
		if strings.HasPrefix(name, dir+"/") {
			delete(b.sockets, name)
			changed = true
		}
	}
	return changed
}

// rescan looks at everything anew, after events were lost.
func (c *Container) rescan(watch *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.binds {
		if !b.direct {
			for name := range b.sockets {
				c.look(b, name)
			}
			for name, wd := range b.dirs {
				delete(b.dirs, name)
				watch.remove(wd, place{c, b, name})
			}
			c.scan(watch, b, ".")
		}
	}
}

// notify makes Follow tell.
func (c *Container) notify() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}
