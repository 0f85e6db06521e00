//go:build vm

package cgroup_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kata-runtime/test/harness"
	"kata-runtime/virtcontainers/cgroup"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// groupsOf is what a container manager reads of a process.
func groupsOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// inGroup tells whether groupsOf's text, of either version of control groups,
// has the process in this one.
func inGroup(groups, path string) bool {
	return strings.Contains(groups, ":pids:"+path+"\n") || strings.HasPrefix(groups, "0::"+path+"\n")
}

// directories are those of a group in all hierarchies.
func directories(t *testing.T, group string) []string {
	t.Helper()
	found, err := filepath.Glob("/sys/fs/cgroup/*" + group)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/sys/fs/cgroup" + group); err == nil {
		found = append(found, "/sys/fs/cgroup"+group)
	}
	return found
}

// sleeper starts a process that ends with the test.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestLifeOfAGroup(t *testing.T) {
	before := groupsOf(t, os.Getpid())
	record, err := cgroup.Resolve(cgroup.Options{ID: "c1", Path: "/parent/group"})
	if err != nil {
		t.Fatal(err)
	}
	if dirs := directories(t, "/parent"); len(dirs) > 0 {
		t.Errorf("Resolve has made %v", dirs)
	}
	group, err := record.Open()
	if err != nil {
		t.Fatal(err)
	}
	membership, err := group.Join()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(groupsOf(t, os.Getpid())) {
		if !strings.HasSuffix(line, ":/parent/group\n") {
			t.Errorf("after Join: %q", line)
		}
	}
	other := sleeper(t)
	if !strings.Contains(groupsOf(t, other.Process.Pid), "/parent/group") {
		t.Error("a child of a member is not in the group")
	}
	if err := membership.Leave(); err != nil {
		t.Error(err)
	}
	if after := groupsOf(t, os.Getpid()); after != before {
		t.Errorf("after Leave: %s\nbefore Join: %s", after, before)
	}

	// Another process, a later command, finds the group by what was recorded.
	encoded, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	var again cgroup.Record
	if err := json.Unmarshal(encoded, &again); err != nil {
		t.Fatal(err)
	}
	later, err := again.Open()
	if err != nil {
		t.Fatal(err)
	}
	late := sleeper(t)
	if err := later.Add(late.Process.Pid); err != nil {
		t.Error(err)
	}
	if !inGroup(groupsOf(t, late.Process.Pid), "/parent/group") {
		t.Error("Add has not moved the process")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := later.Remove(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("remove a group with processes: %v", err)
	}
	for _, cmd := range []*exec.Cmd{other, late} {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 2 {
		if later, err = again.Open(); err != nil {
			t.Fatal(err)
		}
		if err := later.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if dirs := directories(t, "/parent/group"); len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
}

// Without a path, and with a relative one, the group is below the caller's.
func TestRelativePath(t *testing.T) {
	for path, want := range map[string]string{"": "/c2", "some/where": "/some/where"} {
		record, err := cgroup.Resolve(cgroup.Options{ID: "c2", Path: path})
		if err != nil {
			t.Fatal(err)
		}
		group, err := record.Open()
		if err != nil {
			t.Fatal(err)
		}
		process := sleeper(t)
		if err := group.Create(process.Process.Pid); err != nil {
			t.Error(err)
		}
		if groups := groupsOf(t, process.Process.Pid); !inGroup(groups, want) {
			t.Errorf("path %q: the process is in %s", path, groups)
		}
		_ = process.Process.Kill()
		_ = process.Wait()
		if err := group.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A pod's group has kubelet's quota, which may be below what the VM's own group is
// to have, and which changes.
func TestLimitAboveParents(t *testing.T) {
	record, err := cgroup.Resolve(cgroup.Options{ID: "c3", Path: "/pod/c3"})
	if err != nil {
		t.Fatal(err)
	}
	group, err := record.Open()
	if err != nil {
		t.Fatal(err)
	}
	process := sleeper(t)
	if err := group.Create(process.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for _, quota := range []string{"75000", "55000", "95000"} {
		setQuota(t, "/pod", quota)
		if err := group.Limit(cgroup.Limits{MilliCPUs: 1500}); err != nil {
			t.Errorf("below a quota of %s: %v", quota, err)
		}
	}
	setQuota(t, "/pod", "250000")
	if err := group.Limit(cgroup.Limits{MilliCPUs: 1500}); err != nil {
		t.Error(err)
	}
	if got := quota(t, "/pod/c3"); got != "150000" {
		t.Errorf("below a higher quota it is %s, not 150000", got)
	}
	_ = process.Process.Kill()
	_ = process.Wait()
	if err := group.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// quotaFile is the file with the CPU quota of a group, of either version.
func quotaFile(t *testing.T, group string) string {
	t.Helper()
	for _, path := range []string{"/sys/fs/cgroup/cpu" + group + "/cpu.cfs_quota_us", "/sys/fs/cgroup" + group + "/cpu.max"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("%s has no CPU quota", group)
	return ""
}

func setQuota(t *testing.T, group, quota string) {
	t.Helper()
	if err := os.WriteFile(quotaFile(t, group), []byte(quota), 0); err != nil {
		t.Errorf("set the quota of %s: %v", group, err)
	}
}

func quota(t *testing.T, group string) string {
	t.Helper()
	data, err := os.ReadFile(quotaFile(t, group))
	if err != nil {
		t.Fatal(err)
	}
	value, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	return value
}

// TestGroupThatGoes looks for the processes of a group that somebody else makes and
// removes, as systemd does with its scopes: now and then it is gone between the opening of
// its list and the reading.
func TestGroupThatGoes(t *testing.T) {
	record, err := cgroup.Resolve(cgroup.Options{ID: "c1", Path: "/goes"})
	if err != nil {
		t.Fatal(err)
	}
	group, err := record.Open()
	if err != nil {
		t.Fatal(err)
	}
	membership, err := group.Join() // it makes the directories
	if err != nil {
		t.Fatal(err)
	}
	dirs := directories(t, "/goes")
	if err := membership.Leave(); err != nil || len(dirs) == 0 {
		t.Fatalf("%v; the group is in %v", err, dirs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var other sync.WaitGroup
	other.Go(func() {
		for ctx.Err() == nil {
			for _, dir := range dirs {
				_ = os.Remove(dir)
				_ = os.Mkdir(dir, 0o755)
			}
		}
	})
	for ctx.Err() == nil {
		if pids, err := group.Processes(); err != nil || len(pids) != 0 {
			t.Errorf("%v, %v", pids, err)
			cancel()
		}
	}
	other.Wait()
	if err := group.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
