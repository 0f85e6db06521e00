package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroupVariable names, in the environment, the control group of a test
// program, below the root of each hierarchy.
const cgroupVariable = "KATA_TEST_CGROUP"

// cgroups are the control groups of one test program: one in each hierarchy,
// which the program sees as the hierarchy's root.
type cgroups struct {
	name   string
	mounts []string // the hierarchies' mount points
}

func cgroupMounts() ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the control groups' hierarchies: %w", err)
	}
	mounts := make([]string, 0, len(infos))
	for _, info := range infos {
		mounts = append(mounts, info.Mountpoint)
	}
	return mounts, nil
}

// enterCgroups makes the groups and moves this process into them. leave moves
// it to the roots and removes the groups, with those below them.
func enterCgroups() (*cgroups, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	c := &cgroups{name: fmt.Sprintf("kata-test-%d", os.Getpid()), mounts: mounts}
	for _, mount := range mounts {
		dir := filepath.Join(mount, c.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return c, fmt.Errorf("make a control group: %w", err)
		}
		// A new cpuset of version 1 has no CPU and takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(mount, dir, file); err != nil {
				return c, err
			}
		}
		if err := join(dir); err != nil {
			return c, err
		}
	}
	return c, nil
}

func inherit(from, to, file string) error {
	value, err := os.ReadFile(filepath.Join(from, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, file), value, 0o644)
	}
	if err != nil {
		return fmt.Errorf("inherit %s: %w", file, err)
	}
	return nil
}

func join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("join a control group: %w", err)
	}
	return nil
}

// leave is to be called when every process that was started in the groups has
// ended.
func (c *cgroups) leave() error {
	var errs []error
	for _, mount := range c.mounts {
		errs = append(errs, join(mount), removeGroups(filepath.Join(mount, c.name)))
	}
	return errors.Join(errs...)
}

// removeGroups removes a group and those below it, the innermost first.
func removeGroups(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, unix.Rmdir(dir))
	}
	return err
}

// isolateCgroups shows the test program its own groups as the whole hierarchy,
// in its own mount namespace.
func isolateCgroups() error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		dir := filepath.Join(mount, os.Getenv(cgroupVariable))
		if err := unix.Mount(dir, mount, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show %s as %s: %w", dir, mount, err)
		}
	}
	return nil
}
