package container

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes the limits of a running container. What the JSON of
// specs.LinuxResources does not name stays as it is; device rules cannot be
// changed.
func (r *Runtime) Update(_ context.Context, id string, resources []byte) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	asleep, err := c.whileAsleep(func(*sleep) error { // they are set when there is a process
		return r.update(c, resources, func(_ *cgroups.Cgroup, merged *specs.LinuxResources) error {
			if old := c.spec.Linux.Resources; old != nil {
				merged.Devices = old.Devices
			}
			return nil
		})
	})
	if !asleep {
		err = r.update(c, resources, c.setLimits)
	}
	if err != nil {
		return fmt.Errorf("update container %q: %w", id, err)
	}
	return nil
}

// update merges what the JSON asks for with what the container has, and lets set
// make it so.
func (r *Runtime) update(c *container, resources []byte, set func(*cgroups.Cgroup, *specs.LinuxResources) error) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if resources, err = translateUpdate(resources, c.disks); err != nil {
		return fmt.Errorf("%w: resources: %w", ErrInvalid, err)
	}
	merged, err := mergeResources(c.spec.Linux.Resources, resources)
	if err != nil {
		return fmt.Errorf("%w: resources: %w", ErrInvalid, err)
	}
	fitCpuset(r.log, merged, onlineCPUs())
	spec := &specs.Spec{Linux: &specs.Linux{CgroupsPath: c.spec.Linux.CgroupsPath, Resources: merged}}
	group, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{CgroupName: c.id, Spec: spec}, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	idleWithoutWeight(group)
	if err := set(group, merged); err != nil {
		return err
	}
	c.spec.Linux.Resources = merged
	return nil
}

// idleWithoutWeight leaves out the weight of an idle control group, which has the
// least of all: the kernel refuses to be told another one, and with it every later
// change of a limit, because libcontainer writes all of them. The specification
// keeps the shares, for when the group is idle no more.
func idleWithoutWeight(group *cgroups.Cgroup) {
	if group == nil || group.Resources == nil {
		return
	}
	if r := group.Resources; r.CPUIdle != nil && *r.CPUIdle == 1 {
		r.CpuShares, r.CpuWeight = 0, 0
	}
}

// setLimits sets the limits of the container's control group.
func (c *container) setLimits(group *cgroups.Cgroup, resources *specs.LinuxResources) error {
	group.Resources.SkipDevices = true
	config := c.lc.Config()
	devices := config.Cgroups.Resources.Devices
	config.Cgroups = group
	if err := c.lc.Set(config); err != nil {
		return err
	}
	if err := c.setDiskWeights(resources); err != nil {
		return err
	}
	// What is remembered must describe the container for a process added later.
	group.Resources.Devices, group.Resources.SkipDevices = devices, false
	return nil
}

// mergeResources returns a copy of old with what the JSON document names set.
func mergeResources(old *specs.LinuxResources, document []byte) (*specs.LinuxResources, error) {
	copied, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	merged := &specs.LinuxResources{}
	for _, layer := range [][]byte{copied, document} {
		if err := json.Unmarshal(layer, merged); err != nil {
			return nil, err
		}
	}
	merged.Devices = nil
	return merged, nil
}

// Pause freezes every process of a container.
func (r *Runtime) Pause(_ context.Context, id string) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	asleep, err := c.whileAsleep(func(s *sleep) error {
		s.frozen = true
		return nil
	})
	if !asleep {
		err = c.lc.Pause()
	}
	if err != nil {
		return fmt.Errorf("pause container %q: %w", id, err)
	}
	return nil
}

// Resume lets a paused container go on.
func (r *Runtime) Resume(_ context.Context, id string) error {
	c, err := r.find(id)
	if err != nil {
		return err
	}
	asleep, err := c.whileAsleep(func(s *sleep) error {
		s.frozen = false
		return nil
	})
	if !asleep {
		err = c.lc.Resume()
	}
	if err != nil {
		return fmt.Errorf("resume container %q: %w", id, err)
	}
	return nil
}
