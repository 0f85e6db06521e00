package pool

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/store"
)

const (
	machinesName = "machines"
	mountName    = "mnt"
	countersName = "counters.json"

	recordName  = "machine.json"
	requestName = "request.json"
	socketName  = "socket"
)

// lockPatience bounds the wait for the pool's lock, which is held for a few file
// operations and a fork, or for the end of all machines.
const lockPatience = 30 * time.Second

// Pool is a directory with prepared machines. It has no state in memory.
type Pool struct{ dir string }

// Open returns the pool in a directory, which need not be there.
func Open(dir string) *Pool { return &Pool{dir: dir} }

// State is how far a machine is.
type State string

// The states.
const (
	Waiting State = "waiting" // until there is time for it
	Booting State = "booting"
	Ready   State = "ready"
	// Taken and Ending are those that are nobody else's to have, until nothing of them is
	// left in the pool.
	Taken  State = "taken"
	Ending State = "ending"
)

// Record is what is known of a machine.
type Record struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// PID and StartTime name its process.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	// Since is when it came into its state.
	Since time.Time `json:"since"`
	Fit   Fit       `json:"fit"`
	// Cgroup is the host's control group of its processes, written down before it is
	// made: the kernel does not remove it when they are killed.
	Cgroup *cgroup.Record `json:"cgroup,omitempty"`
}

// Request is what a machine is made from.
type Request struct {
	Config *config.Config
	// Now: it does not wait for an idle host.
	Now bool
}

// prepare makes the pool's directories.
func (p *Pool) prepare() error {
	err := os.MkdirAll(p.dir, 0o700)
	if err == nil {
		err = p.check()
	}
	for _, dir := range []string{p.machines(), p.path(mountName)} {
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
	}
	if err != nil {
		return fmt.Errorf("make the pool's directory: %w", err)
	}
	return nil
}

// check refuses a directory in which others could put a machine of theirs.
func (p *Pool) check() error {
	info, err := os.Lstat(p.dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	const others = 0o022
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&others != 0 {
		return fmt.Errorf("the pool's directory %s belongs to somebody else, or others can write to it: name another one (dir in [factory])", p.dir)
	}
	return nil
}

func (p *Pool) path(name string) string    { return filepath.Join(p.dir, name) }
func (p *Pool) machines() string           { return p.path(machinesName) }
func (p *Pool) machine(name string) string { return filepath.Join(p.machines(), name) }

// lock makes what follows one step among all processes, until the file is closed.
func (p *Pool) lock(ctx context.Context) (*os.File, error) {
	lock, err := store.LockDirectory(ctx, p.dir, lockPatience)
	if err != nil {
		return nil, fmt.Errorf("lock the pool: %w", err)
	}
	return lock, nil
}

// List returns the records of the machines whose processes live, sorted by name.
func (p *Pool) List() ([]Record, error) {
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	var records []Record
	for _, name := range names {
		record, err := readRecord(p.machine(name))
		if err == nil && store.Alive(record.PID, record.StartTime) {
			records = append(records, record)
		}
	}
	return records, nil
}

func (p *Pool) names() ([]string, error) {
	entries, err := os.ReadDir(p.machines())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list prepared machines: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func readRecord(dir string) (Record, error) {
	var record Record
	err := readJSON(filepath.Join(dir, recordName), &record)
	return record, err
}

// Claim is a machine that this process is about to take: its process waits for what
// it is to do, and refuses it or is the caller's.
type Claim struct {
	Conn *net.UnixConn // of network "unixpacket"
	Record
}

// Kill ends a process that does not answer.
func (c *Claim) Kill() { end(c.Record, unix.SIGKILL) }

// Take finds a machine that fits, and connects to its process. Without one it tells
// why: of several reasons that which came nearest.
func (p *Pool) Take(ctx context.Context, fit Fit) (*Claim, Reason, error) {
	names, err := p.names()
	if err != nil {
		return nil, ReasonFailed, err
	}
	nearest := ReasonEmpty
	note := func(reason Reason) {
		if rank(reason) > rank(nearest) {
			nearest = reason
		}
	}
	for _, name := range names {
		record, err := readRecord(p.machine(name))
		if err != nil {
			continue // it was taken just now, or is being made
		}
		if !store.Alive(record.PID, record.StartTime) {
			note(ReasonDied)
			continue
		}
		if misfit := record.Fit.Misfit(fit); misfit != "" {
			note(misfit)
			continue
		}
		if record.State != Ready {
			if !record.gone() {
				note(ReasonPreparing)
			}
			continue
		}
		conn, err := p.dial(ctx, name)
		if err != nil {
			note(ReasonTaken)
			continue
		}
		return &Claim{Conn: conn, Record: record}, "", nil
	}
	return nil, nearest, nil
}

// rank orders reasons by how near a machine was.
func rank(reason Reason) int {
	return slices.Index([]Reason{ReasonEmpty, ReasonKind, ReasonConfiguration, ReasonFiles, ReasonSurroundings, ReasonPreparing, ReasonDied, ReasonTaken}, reason)
}

func (p *Pool) dial(ctx context.Context, name string) (*net.UnixConn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixpacket", filepath.Join(p.machine(name), socketName))
	if err != nil {
		return nil, err
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a unix socket"), conn.Close())
	}
	return packets, nil
}

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

// Destroy ends every prepared machine, and removes the pool. Machines that pods have
// taken are theirs.
func (p *Pool) Destroy(ctx context.Context) error {
	ending, err := p.discardAll(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	patience, cancel := context.WithTimeout(ctx, destroyPatience)
	defer cancel()
	for _, record := range ending {
		err := awaitEnd(ctx, patience, record)
		if err == nil {
			err = p.sweep(ctx, record.Name, record)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end the prepared machine %s: %w", record.Name, err))
		}
	}
	return errors.Join(append(errs, p.remove(ctx))...)
}

// discardAll takes every machine out of the pool, and returns those whose processes are
// about to end.
func (p *Pool) discardAll(ctx context.Context) (ending []Record, err error) {
	lock, err := p.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		record, err := readRecord(p.machine(name))
		switch {
		case err != nil && held(p.machine(name)), record.State == Taken && store.Alive(record.PID, record.StartTime):
			// a pod's, or about to be removed by its own process
		case err == nil && store.Alive(record.PID, record.StartTime):
			errs = append(errs, p.discard(record))
			ending = append(ending, record)
		default:
			errs = append(errs, p.sweep(ctx, name, record))
		}
	}
	return ending, errors.Join(errs...)
}

// awaitEnd waits for the end of a machine's process, which after patience is killed.
func awaitEnd(ctx, patience context.Context, record Record) error {
	err := store.AwaitExit(patience, record.PID)
	if err == nil || ctx.Err() != nil || !store.Alive(record.PID, record.StartTime) {
		return err
	}
	end(record, unix.SIGKILL)
	ctx, cancel := context.WithTimeout(ctx, destroyPatience)
	defer cancel()
	return store.AwaitExit(ctx, record.PID)
}

// remove removes the pool's own files. Pods whose machines were prepared have their
// share mounted on the directory for that, each in its own mount namespace; it stays
// for them, since to remove it is to unmount that.
func (p *Pool) remove(ctx context.Context) error {
	lock, err := p.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if names, err := p.names(); err != nil || len(names) > 0 {
		return err // somebody fills it again
	}
	for _, path := range []string{p.path(countersName), p.path(countersName + temporarySuffix), p.machines()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the pool: %w", err)
		}
	}
	mounts, err := os.Open(p.path(mountName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the pool: %w", err)
	}
	defer mounts.Close()
	if unix.Flock(int(mounts.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // pods live
	}
	for _, path := range []string{p.path(mountName), p.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the pool: %w", err)
		}
	}
	return nil
}

const temporarySuffix = ".tmp"

// writeJSON replaces a file at once.
func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = os.WriteFile(path+temporarySuffix, data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+temporarySuffix, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.RemoveAll(path+temporarySuffix))
	}
	return nil
}

func readJSON(path string, value any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
