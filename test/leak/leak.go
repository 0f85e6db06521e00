// Package leak tells what a program left behind: it lists processes, mounts,
// network links, control groups, unix sockets and directory entries before and
// after, and reports what was added. It sees what the calling process sees;
// the tests run it in namespaces of their own, where nobody else adds anything.
package leak

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is what there was at one moment. Each entry is one line of text
// that names its kind first.
type Snapshot struct {
	entries map[string]struct{}
	dirs    []string
}

// Take lists what there is now, with every file below dirs.
func Take(dirs ...string) (*Snapshot, error) {
	s := &Snapshot{entries: map[string]struct{}{}, dirs: dirs}
	return s, errors.Join(s.processes(), s.mounts(), s.links(), s.sockets(), s.cgroups(), s.files())
}

// Added lists again and returns, sorted, what was not there before.
func (s *Snapshot) Added() ([]string, error) {
	now, err := Take(s.dirs...)
	if err != nil {
		return nil, err
	}
	var added []string
	for entry := range now.entries {
		if _, known := s.entries[entry]; !known {
			added = append(added, entry)
		}
	}
	slices.Sort(added)
	return added, nil
}

// HasProcess tells whether the snapshot holds the process.
func (s *Snapshot) HasProcess(p Process) bool {
	_, known := s.entries["process "+p.String()]
	return known
}

func (s *Snapshot) add(format string, args ...any) {
	s.entries[fmt.Sprintf(format, args...)] = struct{}{}
}

func (s *Snapshot) processes() error {
	all, err := Processes()
	for _, p := range all {
		s.add("process %s", p)
	}
	return err
}

// mounts enters each mount of this namespace by its id, which the kernel does
// not use again while the mount is there: a second mount on one place counts.
func (s *Snapshot) mounts() error {
	return eachLine("/proc/self/mountinfo", func(fields []string) {
		if separator := slices.Index(fields, "-"); separator > 4 && len(fields) > separator+2 {
			s.add("mount %s %s (%s of %s)", fields[0], fields[4], fields[separator+1], fields[separator+2])
		}
	})
}

func (s *Snapshot) links() error {
	return eachLine("/proc/net/dev", func(fields []string) {
		if len(fields) > 1 && strings.HasSuffix(fields[0], ":") {
			s.add("network link %s", strings.TrimSuffix(fields[0], ":"))
		}
	})
}

// sockets enters the bound sockets by their address and the nameless ones not
// at all: those end with their last descriptor, and so with a process.
func (s *Snapshot) sockets() error {
	return eachLine("/proc/net/unix", func(fields []string) {
		if len(fields) == 8 {
			s.add("unix socket %s (inode %s)", fields[7], fields[6])
		}
	})
}

func (s *Snapshot) cgroups() error {
	return s.walk("cgroup", "/sys/fs/cgroup", func(entry fs.DirEntry) bool { return entry.IsDir() })
}

func (s *Snapshot) files() error {
	var failed error
	for _, dir := range s.dirs {
		failed = errors.Join(failed, s.walk("file", dir, func(fs.DirEntry) bool { return true }))
	}
	return failed
}

// walk enters what is below dir, and passes over what vanishes meanwhile.
func (s *Snapshot) walk(kind, dir string, wanted func(fs.DirEntry) bool) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return nil
		case err != nil:
			return err
		}
		if path != dir && wanted(entry) {
			s.add("%s %s", kind, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	return nil
}

func eachLine(path string, use func(fields []string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		use(strings.Fields(lines.Text()))
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Process is one process of /proc.
type Process struct {
	PID, PPID int
	// State is the letter of proc(5): Z for a zombie.
	State string
	// Start is the start time in clock ticks since the host's boot: with PID
	// it names one process and no later one.
	Start uint64
	// Command is the command line, or the name in brackets where there is none.
	Command string
}

// String names the process on one line.
func (p Process) String() string {
	return fmt.Sprintf("%d (started %d): %s", p.PID, p.Start, p.Command)
}

// Processes lists every process but the caller.
func Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, err := readProcess(pid); err == nil { // else it has just ended
			all = append(all, p)
		}
	}
	return all, nil
}

func readProcess(pid int) (Process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, err
	}
	// The name is in parentheses and may hold anything, parentheses too.
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("%s/stat: no name in %q", dir, stat)
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return Process{}, fmt.Errorf("%s/stat: too short: %q", dir, stat)
	}
	p := Process{PID: pid, State: fields[0], Command: "[" + string(stat[open+1:end]) + "]"}
	if p.PPID, err = strconv.Atoi(fields[1]); err != nil {
		return Process{}, fmt.Errorf("%s/stat: parent: %w", dir, err)
	}
	if p.Start, err = strconv.ParseUint(fields[19], 10, 64); err != nil {
		return Process{}, fmt.Errorf("%s/stat: start time: %w", dir, err)
	}
	if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(line) > 0 {
		p.Command = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	}
	return p, nil
}
