package pool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/accept"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/store"
)

// Slot is a machine's place in a pool, as its own process sees it.
type Slot struct {
	pool *Pool
	name string
	lock *os.File
	// mounts keeps the directory of the share while this process lives.
	mounts *os.File

	once sync.Once
}

// Occupy is what a process that Fill has started begins with; lock is the file that it
// was given.
func Occupy(dir, name string, lock *os.File) (*Slot, error) {
	s := &Slot{pool: Open(dir), name: name, lock: lock}
	fail := func(err error) (*Slot, error) {
		return nil, fmt.Errorf("occupy a place in the pool %s: %w", dir, err)
	}
	named, err := os.Stat(s.dir())
	if err != nil {
		return fail(err)
	}
	given, err := lock.Stat()
	if err != nil {
		return fail(err)
	}
	if !os.SameFile(named, given) {
		return fail(errors.New("the lock is not that of the machine's directory"))
	}
	if s.mounts, err = os.Open(s.MountPoint()); err != nil {
		return fail(err)
	}
	if err := unix.Flock(int(s.mounts.Fd()), unix.LOCK_SH); err != nil {
		return fail(errors.Join(err, s.mounts.Close()))
	}
	return s, nil
}

func (s *Slot) dir() string { return s.pool.machine(s.name) }

// Name is the machine's.
func (s *Slot) Name() string { return s.name }

// Pool is the pool that the slot is in.
func (s *Slot) Pool() *Pool { return s.pool }

// MountPoint is a directory on which a process may mount what it likes, in a mount
// namespace of its own. It stays while the process lives.
func (s *Slot) MountPoint() string { return s.pool.path(mountName) }

// Request is what the machine is to be made from.
func (s *Slot) Request() (Request, error) {
	var request Request
	err := readJSON(filepath.Join(s.dir(), requestName), &request)
	return request, err
}

// Kind is that of the front end. ctx bounds the wait for who has forked this process to
// have written down that.
func (s *Slot) Kind(ctx context.Context) (Kind, error) {
	lock, err := s.pool.lock(ctx)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	record, err := readRecord(s.dir())
	return record.Fit.Kind, err
}

// maxTurn is longer than all machines of a pool take.
const maxTurn = 24 * time.Hour

// IdleTurn waits until the host is idle, unless the request does not, and no other machine
// of the pool is being booted, until its file is closed: the load that one makes shows
// late. It does not wait for an idle host in front of others, who may ask for less, or be
// of another configuration.
func (s *Slot) IdleTurn(ctx context.Context, request Request) (*os.File, error) {
	for {
		if !request.Now {
			if err := awaitIdle(ctx, request.Config); err != nil {
				return nil, err
			}
		}
		turn, err := s.turn(ctx)
		if err != nil || request.Now {
			return turn, err
		}
		idle, err := hostIdle("/proc", request.Config, runtime.NumCPU())
		if err == nil && idle {
			return turn, nil
		}
		if err := errors.Join(err, turn.Close()); err != nil {
			return nil, err
		}
	}
}

func (s *Slot) turn(ctx context.Context) (*os.File, error) {
	turn, err := store.LockDirectory(ctx, s.pool.machines(), maxTurn)
	if err != nil {
		return nil, fmt.Errorf("wait for the machines that are being prepared: %w", err)
	}
	return turn, nil
}

// Set notes how far the machine is. It wraps ErrDiscarded when somebody has taken the
// machine out of the pool.
func (s *Slot) Set(ctx context.Context, state State) error {
	return s.update(ctx, func(r *Record) { r.State, r.Since = state, time.Now().UTC() })
}

// SetCgroup notes which control group the machine's processes are about to be in.
func (s *Slot) SetCgroup(ctx context.Context, group *cgroup.Record) error {
	return s.update(ctx, func(r *Record) { r.Cgroup = group })
}

// update changes the machine's record. The pool's lock keeps others from it, and waits
// for who has forked this process to have written down that.
func (s *Slot) update(ctx context.Context, change func(*Record)) error {
	lock, err := s.pool.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrDiscarded
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	record, err := readRecord(s.dir())
	if errors.Is(err, fs.ErrNotExist) || err == nil && record.State == Ending {
		return ErrDiscarded
	}
	if err != nil {
		return err
	}
	change(&record)
	return writeJSON(filepath.Join(s.dir(), recordName), record)
}

// Offer lets one command after the other ask for the machine, until consider says that
// one has it: then the machine is no longer in the pool. It returns the cause when ctx
// ends before.
func (s *Slot) Offer(ctx context.Context, log *slog.Logger, consider func(*channel.Conn) (taken bool)) error {
	path := filepath.Join(s.dir(), socketName)
	socket, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("offer the machine: %w", err)
	}
	listener := accept.Patiently(accept.Peers{UnixListener: socket, Log: log}, log)
	defer listener.Close() // and the socket's file
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	if err := s.Set(ctx, Ready); err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("offer the machine: %w", err)
		}
		packets, ok := conn.(*net.UnixConn)
		if !ok { // the listener has no other
			conn.Close()
			continue
		}
		if consider(channel.FromConn(packets)) {
			return nil
		}
		packets.Close()
	}
}

// ErrDiscarded says that somebody has taken the machine out of the pool: it is to end.
var ErrDiscarded = errors.New("the machine was taken out of the pool")

// Leave takes the machine out of the pool, for the command with this pid, which has taken
// it: nobody else gets it, or ends it. It wraps ErrDiscarded when somebody else was faster.
// Remove follows.
func (s *Slot) Leave(ctx context.Context, taker int) error {
	return s.update(ctx, func(r *Record) { r.State, r.Since, r.Taker = Taken, time.Now().UTC(), taker })
}

// Remove removes what the machine has in the pool, when all of it is a pod's, or its
// process ends. Idempotent.
func (s *Slot) Remove() (err error) {
	s.once.Do(func() { err = errors.Join(removeMachine(s.dir()), s.lock.Close()) })
	return err
}
