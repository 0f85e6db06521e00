package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
)

const (
	// prefix marks the files that are ours.
	prefix = "kata."
	// stateName and temporaryName follow the prefix.
	stateName     = "json"
	temporaryName = "json.tmp"
	// maxStateSize bounds what is read of a state file, in bytes.
	maxStateSize = 4 << 20
)

// Entry is one container in the store. It holds nothing open, and its methods
// are safe for concurrent use.
type Entry struct {
	id          string
	dir         string
	incarnation string
}

// ID is the container's id.
func (e *Entry) ID() string { return e.id }

// Dir is the container's directory, which other programs may use too.
func (e *Entry) Dir() string { return e.dir }

// Path is where a file of the container belongs: kata.NAME in Dir. The names
// json, json.tmp and config.json are the store's. The path may be longer
// than the 107 bytes that the address of a unix socket takes.
func (e *Entry) Path(name string) string { return filepath.Join(e.dir, prefix+name) }

// Load reads the state. Besides virtcontainers.ErrNotFound it may return ErrVersion or
// ErrDamaged.
func (e *Entry) Load() (State, error) {
	r, err := e.current()
	if err != nil {
		return State{}, err
	}
	return r.State, nil
}

// Save replaces the state, atomically: a reader sees the old one or the new
// one, and after an error, such as a full disk, the old one is whole. A
// container that was removed stays removed: virtcontainers.ErrNotFound.
func (e *Entry) Save(state State) error {
	return e.exclusively("save the state", func() error {
		if _, err := e.current(); err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		return e.write(state)
	})
}

// Update changes the state: change sees what Load returns, and what it leaves
// is saved unless it returns an error. No other Save or Update comes between.
// change must neither block nor call this store.
func (e *Entry) Update(change func(*State) error) error {
	return e.exclusively("update the state", func() error {
		r, err := e.current()
		if err != nil {
			return err
		}
		if err := change(&r.State); err != nil {
			return err
		}
		return e.write(r.State)
	})
}

// Remove gives the id free: it removes every file kata.* and every empty
// directory kata.*, and then the container's directory, if nothing of other
// programs is in it. A directory kata.* that is not empty is an error, since it
// may hold a mount, and leaves the container known, so that Remove can be
// repeated. A container that is gone already is no error.
func (e *Entry) Remove() error {
	err := e.exclusively("remove the state", func() error {
		if err := e.exists(); err != nil {
			return err
		}
		return e.removeFiles()
	})
	if errors.Is(err, virtcontainers.ErrNotFound) {
		return nil
	}
	return err
}

// removeFiles removes the state file last: until then the container is known.
func (e *Entry) removeFiles() error {
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ours := strings.CutPrefix(entry.Name(), prefix)
		if !ours || name == stateName {
			continue
		}
		if err := removeIfExists(e.Path(name)); err != nil {
			return err
		}
	}
	if err := removeIfExists(e.Path(stateName)); err != nil {
		return err
	}
	return removeIfEmpty(e.dir)
}

// exclusively runs action with the container's directory locked. what says in
// errors what was attempted.
func (e *Entry) exclusively(what string, action func() error) error {
	dir, err := LockDirectory(context.Background(), e.dir, lockPatience)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", virtcontainers.ErrNotFound, e.id)
	}
	if err == nil {
		err = errors.Join(action(), dir.Close())
	}
	if err == nil || errors.Is(err, virtcontainers.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%s of container %s: %w", what, e.id, err)
}

// current reads the state file and makes sure that it is this incarnation's.
func (e *Entry) current() (record, error) {
	r, err := e.read()
	if errors.Is(err, virtcontainers.ErrNotFound) {
		return r, err
	}
	if r.Incarnation != e.incarnation {
		return record{}, fmt.Errorf("%w: %s", virtcontainers.ErrNotFound, e.id)
	}
	return r, err
}

// exists is nil for a container that is there, whatever its state file holds.
func (e *Entry) exists() error {
	_, err := e.current()
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion) {
		return nil
	}
	return err
}

// read reads the state file, whoever's incarnation it is.
func (e *Entry) read() (r record, err error) {
	path := e.Path(stateName)
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return record{}, fmt.Errorf("%w: %s", virtcontainers.ErrNotFound, e.id)
	}
	if err != nil {
		return record{}, fmt.Errorf("read the state of container %s: %w", e.id, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxStateSize))
	if err != nil {
		return record{}, fmt.Errorf("read the state of container %s: %w", e.id, err)
	}
	if r, err = parseRecord(data); err != nil {
		return r, fmt.Errorf("read the state of container %s: %s: %w", e.id, path, err)
	}
	return r, nil
}

// write replaces the state file. The directory is locked.
func (e *Entry) write(state State) (err error) {
	if state.ID == "" {
		state.ID = e.id
	}
	if state.ID != e.id {
		return fmt.Errorf("the state is that of container %q", state.ID)
	}
	state.Version = StateVersion
	data, err := json.Marshal(record{Incarnation: e.incarnation, State: state})
	if err != nil {
		return err
	}
	temporary := e.Path(temporaryName)
	defer func() {
		if err != nil {
			err = errors.Join(err, removeIfExists(temporary))
		}
	}()
	// One that a killed command left may be there.
	if err := removeIfExists(temporary); err != nil {
		return err
	}
	if err := writeFile(temporary, append(data, '\n')); err != nil {
		return err
	}
	return os.Rename(temporary, e.Path(stateName))
}

// writeFile writes a new file. That its data is in the file before its name is, is so for all
// processes of the host, whoever is killed. Nothing waits for the disk, as with runc: what
// comes after the host's own end finds no container of before it, and a file that this has cut
// short is one that Remove removes (ErrDamaged).
func writeFile(path string, data []byte) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = file.Write(data)
	return err
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func removeIfEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}
