package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Where the receipt is on the node.
const (
	receiptDir  = "/var/lib/kata-runtime"
	receiptPath = receiptDir + "/node.json"
)

// receipt is what an installation did, or is about to do: it is written first.
type receipt struct {
	// Version is the installed program's.
	Version string `json:"version"`
	Prefix  string `json:"prefix"`
	Handler string `json:"handler"`
	// Files are the installed files, with the hashes of the content that they
	// may have: while one is being replaced, the old one's and the new one's.
	Files map[string][]string `json:"files,omitempty"`
	// Dirs are the directories that were not there, outermost first.
	Dirs []string `json:"dirs,omitempty"`
	// Edited are the configurations that have a block of ours.
	Edited map[string]edited `json:"edited,omitempty"`
	// Restart are the services that do not know yet what has changed.
	Restart []string `json:"restart,omitempty"`
	// Complete: the installation came to its end.
	Complete bool `json:"complete"`
}

// edited is what is to be known about a configuration with a block of ours.
type edited struct {
	// Created: there was no file.
	Created bool `json:"created,omitempty"`
}

func (r *receipt) addDirs(dirs []string) {
	for _, dir := range dirs {
		if !slices.Contains(r.Dirs, dir) {
			r.Dirs = append(r.Dirs, dir)
		}
	}
}

func (r *receipt) addRestart(unit string) {
	if !slices.Contains(r.Restart, unit) {
		r.Restart = append(r.Restart, unit)
	}
}

func (r *receipt) addFile(name, hash string) {
	if r.Files == nil {
		r.Files = make(map[string][]string)
	}
	if !slices.Contains(r.Files[name], hash) {
		r.Files[name] = append(r.Files[name], hash)
	}
}

// equal compares what is written.
func (r *receipt) equal(other *receipt) bool {
	a, errA := json.Marshal(r)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// managerFiles are those of the files that a manager reads, in part or whole ours.
func (r *receipt) managerFiles() []string {
	names := slices.Collect(maps.Keys(r.Edited))
	for name := range r.Files {
		if base := path.Base(name); base == dropInName || base == path.Base(crioDropIn) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// unitOf is the service that reads one of managerFiles.
func unitOf(name string) string {
	if name == crioDropIn {
		return crioUnit
	}
	return containerdUnit
}

// clone is a copy that shares nothing.
func (r *receipt) clone() *receipt {
	c := *r
	c.Files = maps.Clone(r.Files)
	for name, hashes := range c.Files {
		c.Files[name] = slices.Clone(hashes)
	}
	c.Dirs, c.Restart, c.Edited = slices.Clone(r.Dirs), slices.Clone(r.Restart), maps.Clone(r.Edited)
	return &c
}

// loadReceipt returns nil when nothing is installed.
func (t tree) loadReceipt() (*receipt, error) {
	text, found, err := t.read(receiptPath)
	if err != nil || !found {
		return nil, err
	}
	var r receipt
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return nil, fmt.Errorf("%s on the node, which tells what is installed, is not understood (use the version that installed it): %w", receiptPath, err)
	}
	for name := range r.Files {
		if !path.IsAbs(name) || path.Clean(name) != name {
			return nil, fmt.Errorf("%s on the node names a file %q, which is no absolute path", receiptPath, name)
		}
	}
	return &r, nil
}

func (t tree) saveReceipt(r *receipt) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode what is installed: %w", err)
	}
	return t.write(receiptPath, 0o644, bytes.NewReader(append(data, '\n')))
}

// lock lets one installation or removal run at a time: it holds the receipt's
// directory, which it makes. unlock ends it.
func (t tree) lock() (unlock func(), err error) {
	for {
		// Without parents: a directory that has none of them is no node's root.
		if err := t.root.Mkdir(inside(receiptDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make %s on the node (is %s its root directory?): %w", receiptDir, t.root.Name(), err)
		}
		dir, err := t.root.Open(inside(receiptDir))
		if err != nil {
			return nil, fmt.Errorf("open %s on the node: %w", receiptDir, err)
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			err = fmt.Errorf("lock %s on the node (another installation or removal is running?): %w", receiptDir, err)
			return nil, errors.Join(err, dir.Close())
		}
		held, heldErr := dir.Stat()
		now, err := t.root.Stat(inside(receiptDir))
		if heldErr == nil && err == nil && os.SameFile(held, now) {
			return func() { dir.Close() }, nil
		}
		dir.Close() // it was taken away meanwhile
	}
}
