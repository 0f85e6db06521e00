package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Processes lists the processes of the group, as this process sees their ids. The
// kernel's own that work for a process are among them.
func (g *Group) Processes() ([]int, error) {
	if g == nil {
		return nil, nil
	}
	for _, dir := range g.manager.GetPaths() { // each controller's group has the same
		return processesOf(dir)
	}
	return nil, nil
}

func processesOf(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the processes of a control group: %w", err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("list the processes of a control group: %w", err)
		}
		if pid != 0 { // of another PID namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Absorb moves every process of another group into this one, with all its threads.
// What they have been charged with stays with the other group, and goes to its parent
// with that.
func (g *Group) Absorb(other *Group) error {
	return empty(other, g.Add)
}

// MoveTo moves every process of the group to where a process is, which is elsewhere.
func (g *Group) MoveTo(pid int) error {
	return empty(g, func(moved int) error { return g.Send(moved, pid) })
}

// Send moves a process of the group to where another one is, in the hierarchies that the
// group is in.
func (g *Group) Send(pid, to int) error {
	if g == nil {
		return nil
	}
	for controller := range g.manager.GetPaths() {
		dir, err := directoryOf(fmt.Sprintf("/proc/%d/cgroup", to), controller)
		if err == nil {
			err = cgroups.WriteCgroupProc(dir, pid)
		}
		if err != nil {
			return fmt.Errorf("move process %d into the control group of %q of process %d: %w", pid, controller, to, err)
		}
	}
	return nil
}

// empty moves the processes of a group elsewhere, and those that they start meanwhile.
func empty(group *Group, move func(pid int) error) error {
	const most = 100 // rounds, should a process not want to go
	for range most {
		pids, err := group.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := move(pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return errors.New("move processes out of a control group: there are always others")
}
