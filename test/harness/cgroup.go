package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroupVariable names, in the environment, the control group of a test
// program, below the root of each hierarchy.
const cgroupVariable = "KATA_TEST_CGROUP"

// Below the group of a test program in a hierarchy of version 2, where a group
// has processes or groups with limits and not both: that of the tests, and that
// of the process that started them.
const (
	testsGroup   = "tests"
	starterGroup = "starter"
)

// cgroups are the control groups of one test program: one in each hierarchy,
// which the program sees as the hierarchy's root.
type cgroups struct {
	name   string
	mounts []*mountinfo.Info // of the hierarchies
}

func cgroupMounts() ([]*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the control groups' hierarchies: %w", err)
	}
	return infos, nil
}

func unified(mount *mountinfo.Info) bool { return mount.FSType == "cgroup2" }

// enterCgroups makes the groups and moves this process into them. leave moves
// it to the roots and removes the groups, with those below them.
func enterCgroups() (*cgroups, error) {
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, err
	}
	c := &cgroups{name: fmt.Sprintf("kata-test-%d", os.Getpid()), mounts: mounts}
	for _, mount := range mounts {
		dir := filepath.Join(mount.Mountpoint, c.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return c, fmt.Errorf("make a control group: %w", err)
		}
		if unified(mount) {
			err = errors.Join(enableControllers(mount.Mountpoint),
				os.Mkdir(filepath.Join(dir, testsGroup), 0o755), os.Mkdir(filepath.Join(dir, starterGroup), 0o755))
		} else {
			// A new cpuset of version 1 has no CPU and takes no process.
			err = errors.Join(inherit(mount.Mountpoint, dir, "cpuset.cpus"), inherit(mount.Mountpoint, dir, "cpuset.mems"))
		}
		if err == nil {
			err = join(dir)
		}
		if err != nil {
			return c, fmt.Errorf("make a control group: %w", err)
		}
	}
	return c, nil
}

// enableControllers lets groups below dir have each controller that dir has.
func enableControllers(dir string) error {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644); err != nil {
			return fmt.Errorf("enable the controller %s: %w", name, err)
		}
	}
	return nil
}

// stepAside leaves the groups of version 2 to the tests, once they have begun
// in them and so have them as the roots of their cgroup namespace.
func (c *cgroups) stepAside() error {
	var errs []error
	for _, mount := range c.mounts {
		if unified(mount) {
			errs = append(errs, join(filepath.Join(mount.Mountpoint, c.name, starterGroup)))
		}
	}
	return errors.Join(errs...)
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
		errs = append(errs, join(mount.Mountpoint), removeGroups(filepath.Join(mount.Mountpoint, c.name)))
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
		dir := filepath.Join(mount.Mountpoint, os.Getenv(cgroupVariable))
		if err := unix.Mount(dir, mount.Mountpoint, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show %s as %s: %w", dir, mount.Mountpoint, err)
		}
		if !unified(mount) {
			continue
		}
		if err := join(filepath.Join(mount.Mountpoint, testsGroup)); err != nil {
			return err
		}
	}
	return nil
}
