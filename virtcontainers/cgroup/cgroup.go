package cgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"
)

// ErrPath says that linux.cgroupsPath names no group that could be made.
var ErrPath = errors.New("invalid linux.cgroupsPath")

// Options say where a container's group is wanted.
type Options struct {
	// ID is the container's.
	ID string
	// Path is linux.cgroupsPath of its config, as the OCI runtime-spec has it:
	// absolute, from the root of the hierarchies; relative or empty, from the
	// caller's own group. With Systemd it is "slice:prefix:name".
	Path string
	// Systemd lets systemd make the group (--systemd-cgroup).
	Systemd bool
}

// Record names a group, and is all that is needed to remove it. It is kept as
// JSON in a container's state.
type Record struct {
	Systemd bool   `json:"systemd,omitempty"`
	Parent  string `json:"parent,omitempty"` // the slice
	Prefix  string `json:"prefix,omitempty"` // of the scope
	Name    string `json:"name"`
	// Paths are the group's directories by controller; that of version 2 has
	// an empty name.
	Paths map[string]string `json:"paths"`
}

// Resolve finds where the calling process's group would be, and makes nothing.
// A host without control groups gives a nil Record, unless a path is asked for.
func Resolve(options Options) (*Record, error) {
	record, config, err := configure(options)
	if err != nil {
		return nil, err
	}
	made, err := manager.New(config)
	if err != nil {
		if options.Path == "" && !options.Systemd {
			return nil, nil //nolint:nilnil // nowhere to put it, and nobody looks there
		}
		return nil, fmt.Errorf("find the control group of linux.cgroupsPath %q: %w", options.Path, err)
	}
	record.Paths = made.GetPaths()
	return record, nil
}

// SystemdRuns tells whether this host has a systemd that could make groups.
func SystemdRuns() bool { return systemd.IsRunningSystemd() }

// configure turns options into what the library wants.
func configure(options Options) (*Record, *cgroups.Cgroup, error) {
	record := &Record{Systemd: options.Systemd, Name: options.ID}
	if options.Systemd {
		if options.Path == "" {
			record.Parent, record.Prefix = "system.slice", "kata"
			config := record.config()
			return record, config, nil
		}
		parts := strings.Split(options.Path, ":")
		if len(parts) != 3 {
			return nil, nil, fmt.Errorf("%w: %q; with --systemd-cgroup it is slice:prefix:name", ErrPath, options.Path)
		}
		record.Parent, record.Prefix, record.Name = parts[0], parts[1], parts[2]
		config := record.config()
		return record, config, nil
	}
	config := record.config()
	if options.Path != "" {
		// Removing the root group would empty the host of groups.
		if path.Clean("/"+options.Path) == "/" {
			return nil, nil, fmt.Errorf("%w: %q is the root of the hierarchy", ErrPath, options.Path)
		}
		config.Name, config.Path = "", options.Path
	}
	return record, config, nil
}

func (r *Record) config() *cgroups.Cgroup {
	return &cgroups.Cgroup{
		Name: r.Name, Parent: r.Parent, ScopePrefix: r.Prefix, Systemd: r.Systemd,
		Resources: &cgroups.Resources{}, // the library wants some
	}
}

// Group is a control group of the host. The methods of a nil Group do nothing,
// so that a host without control groups needs no special case.
type Group struct {
	manager cgroups.Manager
}

// Open returns the group of a record; nil for a nil record. It makes nothing.
func (r *Record) Open() (*Group, error) {
	if r == nil {
		return nil, nil //nolint:nilnil // see Group
	}
	m, err := manager.NewWithPaths(r.config(), maps.Clone(r.Paths))
	if err != nil {
		return nil, fmt.Errorf("open the control group: %w", err)
	}
	return &Group{manager: m}, nil
}

// Create makes the group, if need be, with the process pid as its first one.
// After an error, Remove removes what there is of it.
func (g *Group) Create(pid int) error {
	if g == nil {
		return nil
	}
	if err := g.manager.Apply(pid); err != nil {
		return fmt.Errorf("make the control group: %w", err)
	}
	return nil
}

// Add moves a further process into the group, with all its threads.
func (g *Group) Add(pid int) error {
	if g == nil {
		return nil
	}
	if err := g.manager.AddPid("", pid); err != nil {
		return fmt.Errorf("move process %d into the control group: %w", pid, err)
	}
	return nil
}

// Remove removes the group and those below it, once the processes in it have
// ended or ctx has; one that stays is an error. The calling process must not be
// in it. Idempotent.
func (g *Group) Remove(ctx context.Context) error {
	if g == nil {
		return nil
	}
	for _, dir := range g.manager.GetPaths() {
		// Every controller's group has the same processes.
		if err := awaitEmpty(ctx, dir); err != nil {
			return fmt.Errorf("remove the control group: %w", err)
		}
		break
	}
	if err := g.manager.Destroy(); err != nil {
		return fmt.Errorf("remove the control group: %w", err)
	}
	return nil
}
