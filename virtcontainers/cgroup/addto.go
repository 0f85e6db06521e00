package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
)

// AddTo moves a process into a group that is there, in every hierarchy that has
// it. path counts from the root of the hierarchies.
func AddTo(path string, pid int) error {
	path = filepath.Join("/", path)
	if cgroups.IsCgroup2UnifiedMode() {
		return addTo(filepath.Join(unifiedMount, path), pid)
	}
	hierarchies, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return fmt.Errorf("find the hierarchies of control groups: %w", err)
	}
	found := false
	for _, hierarchy := range hierarchies {
		err := addTo(filepath.Join(hierarchy.Mountpoint, path), pid)
		switch {
		case err == nil:
			found = true
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	if !found {
		return fmt.Errorf("no hierarchy has the control group %s: %w", path, os.ErrNotExist)
	}
	return nil
}

func addTo(dir string, pid int) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	return cgroups.WriteCgroupProc(dir, pid)
}
