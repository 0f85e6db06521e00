package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
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
	// Taker is the pid, as it says itself, of the command that has Taken it.
	Taker int `json:"taker,omitempty"`
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

	pool *Pool
}

// GiveUp ends a process that does not answer, or has closed the connection, unless it is
// another command's: who asked while that one was given the machine has no answer either.
// It tells whether that is so.
func (c *Claim) GiveUp(ctx context.Context) (taken bool, err error) {
	lock, err := c.pool.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // the pool has gone, with all that nobody had taken
	}
	if err != nil {
		return false, fmt.Errorf("give up the prepared machine %s: %w", c.Name, err)
	}
	defer lock.Close()
	record, err := readRecord(c.pool.machine(c.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist): // it is all a pod's, or has ended
		return true, nil
	case err != nil:
		return false, fmt.Errorf("give up the prepared machine %s: %w", c.Name, err)
	case record.State == Taken && record.Taker != os.Getpid():
		return true, nil
	default:
		end(c.Record, unix.SIGKILL)
		return false, nil
	}
}

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
			if !record.gone() { // otherwise it ended with its pod
				note(ReasonDied)
			}
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
		return &Claim{Conn: conn, Record: record, pool: p}, "", nil
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
