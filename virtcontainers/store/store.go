package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kata-runtime/virtcontainers"
)

// Store is the directory that holds the containers' directories. It has no
// state of its own in memory, and its methods are safe for concurrent use.
type Store struct {
	root string
}

// Open returns the store below root, an absolute path other than "/". The
// directory need not exist: Reserve makes it.
func Open(root string) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("open state directory %q: it must be an absolute path", root)
	}
	root = filepath.Clean(root)
	if root == "/" {
		return nil, errors.New("open state directory: it must not be /")
	}
	return &Store{root: root}, nil
}

// Root is the store's directory, absolute and clean.
func (s *Store) Root() string { return s.root }

// Reserve claims a new id, atomically among all processes, with a State of
// status creating, and with the calling process as the supervisor: whoever
// finds that dead knows that the id is nobody's any more. A taken id is virtcontainers.ErrExists. A directory of that name that holds
// no container of ours is used as it is. After an error nothing is left behind.
func (s *Store) Reserve(id string) (*Entry, error) {
	entry, err := s.entry(id)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, fmt.Errorf("reserve container %s: %w", id, err)
	}
	if err := checkOwner(s.root); err != nil {
		return nil, fmt.Errorf("reserve container %s: %w", id, err)
	}
	entry.incarnation = rand.Text()
	for {
		made, err := makeDirectory(entry.dir)
		if err != nil {
			return nil, fmt.Errorf("reserve container %s: %w", id, err)
		}
		if !made {
			if err := checkOwner(entry.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("reserve container %s: %w", id, err)
			}
		}
		dir, err := LockDirectory(context.Background(), entry.dir, lockPatience)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a Remove was faster
		}
		if err == nil {
			err = errors.Join(entry.claim(made), dir.Close())
		}
		if errors.Is(err, virtcontainers.ErrExists) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("reserve container %s: %w", id, err)
		}
		return entry, nil
	}
}

// checkOwner refuses a directory that somebody else has made, or can write to:
// whoever can replace the state and the sockets of a container has what this
// process can do.
func checkOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return fmt.Errorf("%w: %s is no directory", ErrUnsafe, dir)
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d: give it to the user of the runtime (chown), or use another one (--root)",
			ErrUnsafe, dir, stat.Uid)
	}
	const others = 0o022
	if info.Mode().Perm()&others != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("%w: %s can be written to by others (mode %v): take that from them (chmod go-w)", ErrUnsafe, dir, info.Mode())
	}
	return nil
}

func makeDirectory(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// claim writes the first state. The directory is locked; made says that it was
// made for this claim.
func (e *Entry) claim(made bool) (err error) {
	_, err = os.Lstat(e.Path(stateName))
	if err == nil {
		return fmt.Errorf("%w: %s", virtcontainers.ErrExists, e.id)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil && made {
			err = errors.Join(err, removeIfEmpty(e.dir))
		}
	}()
	start, err := StartTime(os.Getpid())
	if err != nil {
		return err
	}
	return e.write(State{
		Status: virtcontainers.StatusCreating, Created: time.Now().UTC(), SupervisorPID: os.Getpid(), SupervisorStartTime: start,
	})
}

// Lookup finds a container, also one whose state is damaged or of a newer
// version: Load says so. An unknown id is virtcontainers.ErrNotFound.
func (s *Store) Lookup(id string) (*Entry, error) {
	entry, err := s.entry(id)
	if err != nil {
		return nil, err
	}
	r, err := entry.read()
	if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
		return nil, err
	}
	entry.incarnation = r.Incarnation
	return entry, nil
}

// List returns the containers, sorted by id. One whose state cannot be read is
// among them, so that it does not hide the others: its Load says why.
func (s *Store) List() ([]*Entry, error) {
	dirs, err := os.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var entries []*Entry
	for _, dir := range dirs {
		if !dir.IsDir() {
			continue
		}
		entry, err := s.Lookup(dir.Name())
		if errors.Is(err, virtcontainers.ErrNotFound) || errors.Is(err, ErrInvalidID) {
			continue // another program's, or removed meanwhile
		}
		if err != nil { // without an incarnation, nothing can be done to it
			entry = &Entry{id: dir.Name(), dir: filepath.Join(s.root, dir.Name())}
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// entry checks that the id names a directory below the root. What else an id
// must be is the caller's business.
func (s *Store) entry(id string) (*Entry, error) {
	if id == "" || id == "." || id == ".." || len(id) > 255 || strings.ContainsAny(id, "/\x00") {
		return nil, fmt.Errorf("%w: %q", ErrInvalidID, id)
	}
	return &Entry{id: id, dir: filepath.Join(s.root, id)}, nil
}
