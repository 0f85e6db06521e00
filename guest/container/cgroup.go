package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// cgroupParent holds the containers' cgroups. The host's cgroupsPath names
	// a place in the host's hierarchy, which the guest does not have.
	cgroupParent = "/kata"
)

// PrepareCgroups makes the parent of the containers' cgroups, and has the
// kernel prefer whatever is not a container whenever that has something to do.
// How containers share the processors among themselves is not changed. It is
// called once, in a guest.
//
// The agent so answers the host however busy the containers are. And the end of
// a terminal's output is not lost: the kernel throws away what its own worker
// thread has not yet moved to the reader's side when the session's leader
// exits. On one processor, that thread must run before the leader goes on.
func PrepareCgroups() error {
	if !cgroups.IsCgroup2UnifiedMode() {
		return nil
	}
	dir := filepath.Join(cgroupRoot, cgroupParent)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the containers' cgroup: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "cpu.idle"), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // A kernel before 5.15.
	}
	if err == nil {
		_, err = file.WriteString("1")
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return fmt.Errorf("prefer the guest's own processes: %w", err)
	}
	return nil
}

// cgroupDir returns the directory of the container's cgroup, or nothing on a
// machine without the unified hierarchy.
func (c *container) cgroupDir() string {
	if !cgroups.IsCgroup2UnifiedMode() {
		return ""
	}
	return filepath.Join(cgroupRoot, cgroupParent, c.id)
}

// CgroupDir returns the directory of the cgroup of a container, which is not there
// while it sleeps, or nothing when there is no such container, or on a machine without the unified hierarchy.
func (r *Runtime) CgroupDir(id string) string {
	c, err := r.find(id)
	if err != nil {
		return ""
	}
	return c.cgroupDir()
}
