//go:build vm

package share_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/share"
)

// insideVariable tells the test binary that it runs in a mount namespace of its
// own.
const insideVariable = "KATA_SHARE_TEST_DIR"

// TestShareInItsOwnNamespace runs TestInside again in a private mount namespace
// that ends with it.
func TestShareInItsOwnNamespace(t *testing.T) {
	dir := t.TempDir()
	before := mountInfo(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInside$", "-test.v")
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if after := mountInfo(t); after != before {
		t.Errorf("the host's mounts changed from\n%s\nto\n%s", before, after)
	}
}

func mountInfo(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestInside(t *testing.T) {
	dir := os.Getenv(insideVariable)
	if dir == "" {
		return // TestShareInItsOwnNamespace is the one that counts
	}
	source := filepath.Join(dir, "source")
	point := filepath.Join(dir, "share")
	for _, path := range []string{source, point} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	unix.Umask(0o077) // a caller's
	below := filepath.Join(source, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("below", below, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	shared, err := share.New(point)
	if err != nil {
		t.Fatal(err)
	}
	mounts := []share.Mount{
		{Name: share.Rootfs, Tree: open(t, source)},
		{Name: share.Bind(0), Tree: open(t, source), Attributes: share.Attributes{ReadOnly: true}},
		{Name: share.Bind(1), Tree: open(t, file), Attributes: share.Attributes{ReadOnly: true}},
	}
	if err := shared.Add("c1", mounts); err != nil {
		t.Fatal(err)
	}
	checkFlags(t, point, 1+3+2) // itself, what is added, and what is below that
	if err := os.WriteFile(filepath.Join(point, "c1/rootfs/new"), []byte("x"), 0o644); err != nil {
		t.Errorf("write to the root file system: %v", err)
	}
	if _, err := os.Stat(filepath.Join(source, "new")); err != nil {
		t.Errorf("the write did not reach the source: %v", err)
	}
	err = os.WriteFile(filepath.Join(point, "c1/mounts/0/no"), nil, 0o644)
	if !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only bind: %v, want EROFS", err)
	}
	// The root of a user namespace passes, and sees nothing on its way.
	for _, name := range []string{".", "c1", "c1/mounts"} {
		if info, err := os.Stat(filepath.Join(point, name)); err != nil || info.Mode().Perm() != 0o711 {
			t.Errorf("%s: %v, %v, want mode 0711", name, info.Mode(), err)
		}
	}
	// The guest could lead the host's next steps astray otherwise.
	for _, change := range []error{
		os.Mkdir(filepath.Join(point, "new"), 0o755), os.Rename(filepath.Join(point, "c1"), filepath.Join(point, "c9")),
		os.Symlink("/", filepath.Join(point, "c1/mounts/2")), os.Remove(filepath.Join(point, "c1")),
	} {
		if !errors.Is(change, unix.EROFS) {
			t.Errorf("change the share itself: %v, want EROFS", change)
		}
	}
	if data, err := os.ReadFile(filepath.Join(point, "c1/mounts/1")); err != nil || string(data) != "text" {
		t.Errorf("read a bind of a file: %q, %v", data, err)
	}
	if err := shared.Add("c3", []share.Mount{{Name: share.Bind(0), Tree: open(t, source)}, {Name: share.Memory(0), Tree: open(t, source), Temporary: true}}); err != nil {
		t.Fatal(err)
	}
	if err := shared.Detach("c3", share.Memory(0)); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(filepath.Join(point, "c3", share.Memory(0))); err != nil || len(names) > 0 {
		t.Errorf("what was detached has %v, %v", names, err)
	}
	for _, name := range []string{share.Memory(0), share.Memory(1)} {
		if err := shared.Detach("c3", name); err == nil {
			t.Errorf("%s was detached, which is not there", name)
		}
	}
	if err := shared.Remove("c3"); err != nil {
		t.Error(err)
	}
	if err := shared.Add("c1", nil); err == nil {
		t.Error("the same container was shared twice")
	}
	closed := open(t, source)
	closed.Close()
	if err := shared.Add("c2", []share.Mount{{Name: share.Rootfs, Tree: open(t, source)}, {Name: share.Bind(0), Tree: closed}}); err == nil {
		t.Error("a closed tree was attached")
	}
	if _, err := os.Stat(filepath.Join(point, "c2")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed Add left the container's directory: %v", err)
	}
	for range 2 { // idempotent
		if err := shared.Remove("c1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(source, "new")); err != nil {
		t.Errorf("the removal reached the source: %v", err)
	}
	for range 2 {
		if err := shared.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if info := mountInfo(t); strings.Contains(info, point) {
		t.Errorf("mounts are left:\n%s", info)
	}
}

// TestMapIDs looks at an id-mapped tree from this process's namespace.
func TestMapIDs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1}, {ContainerID: 5, HostID: 0, Size: 1}}
	users, err := share.NewUserNamespace(ids, ids)
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	tree := open(t, dir)
	defer tree.Close()
	if err := share.MapIDs(tree, users, true); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/proc/self/fd/%d/", tree.Fd())
	var stat unix.Stat_t
	if err := unix.Stat(name+"file", &stat); err != nil || stat.Uid != 100000 || stat.Gid != 100000 {
		t.Errorf("root's file belongs to %d:%d, %v", stat.Uid, stat.Gid, err)
	}
	if err := os.WriteFile(name+"new", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(filepath.Join(dir, "new"), &stat); err != nil || stat.Uid != 5 || stat.Gid != 5 {
		t.Errorf("a new file of root belongs to %d:%d in the source, %v", stat.Uid, stat.Gid, err)
	}
	if err := share.MapIDs(open(t, "/proc"), users, false); err == nil {
		t.Error("procfs was id-mapped")
	}
}

// checkFlags looks at the mounts at path and below it: nothing of the guest's is
// a device or gives privileges on the host.
func checkFlags(t *testing.T, path string, count int) {
	t.Helper()
	found := 0
	for line := range strings.Lines(mountInfo(t)) {
		fields := strings.Fields(line)
		if at := fields[4]; at != path && !strings.HasPrefix(at, path+"/") {
			continue
		}
		found++
		options := strings.Split(fields[5], ",")
		if !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") {
			t.Errorf("a mount of the share is not nosuid and nodev: %s", line)
		}
	}
	if found != count {
		t.Errorf("the share has %d mounts, want %d", found, count)
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	tree, err := share.OpenTree(path, true)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
