package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
)

// unifiedMount is where version 2 is mounted when it is the only one.
const unifiedMount = "/sys/fs/cgroup"

// Membership is the calling process's place in a group that it joined, which it
// has to leave before the group can be removed. The methods of a nil Membership
// do nothing.
type Membership struct {
	former map[string]string // by controller: the directory of the group before
}

// Join makes the group, if need be, and moves the calling process into it.
// After an error, Leave and Group.Remove undo what was done.
func (g *Group) Join() (*Membership, error) {
	if g == nil {
		return nil, nil //nolint:nilnil // see Group
	}
	m := &Membership{former: make(map[string]string)}
	for controller := range g.manager.GetPaths() {
		dir, err := ownDirectory(controller)
		if err != nil {
			return nil, fmt.Errorf("find this process's control group of %q: %w", controller, err)
		}
		m.former[controller] = dir
	}
	return m, g.Create(os.Getpid())
}

// ownDirectory is the group of the calling process in the hierarchy of a
// controller.
func ownDirectory(controller string) (string, error) {
	return directoryOf("/proc/self/cgroup", controller)
}

// directoryOf is the group, in the hierarchy of a controller, of the process that the
// file is about.
func directoryOf(file, controller string) (string, error) {
	groups, err := cgroups.ParseCgroupFile(file)
	if err != nil {
		return "", err
	}
	if cgroups.IsCgroup2UnifiedMode() || controller == "" {
		mount, err := mountpoint(controller)
		return filepath.Join(mount, groups[""]), err
	}
	group, ok := groups[controller]
	if !ok {
		group, ok = groups["name="+controller]
	}
	if !ok {
		return "", fmt.Errorf("%s names no group of it", file)
	}
	// In a container, the hierarchy may be mounted from one of its groups on.
	mount, root, err := cgroups.FindCgroupMountpointAndRoot("", controller)
	if err != nil {
		return "", err
	}
	below, err := filepath.Rel(root, group)
	return filepath.Join(mount, below), err
}

// mountpoint is the root of the hierarchy of a controller.
func mountpoint(controller string) (string, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		return unifiedMount, nil
	}
	return cgroups.FindCgroupMountpoint("", controller)
}

// Leave moves the calling process back to where it was, or to the root of a
// hierarchy in which its former group is gone. Idempotent.
func (m *Membership) Leave() error {
	if m == nil {
		return nil
	}
	var errs []error
	for controller, dir := range m.former {
		err := cgroups.WriteCgroupProc(dir, os.Getpid())
		if err != nil {
			root, findErr := mountpoint(controller)
			if err = findErr; err == nil {
				err = cgroups.WriteCgroupProc(root, os.Getpid())
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("leave the control group of %q: %w", controller, err))
		}
	}
	return errors.Join(errs...)
}
