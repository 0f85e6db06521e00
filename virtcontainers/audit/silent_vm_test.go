//go:build vm

package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process with a file of a dead file system open, one whose server takes no request,
// is looked at as if nothing was; a root there keeps nobody.
func TestDeadFileSystem(t *testing.T) {
	mount := deadFileSystem(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err := readSelf(t)
		if err != nil || len(p.Silent) > 0 || p.Files["directory"] == 0 {
			t.Errorf("%+v, %v", p, err)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it waits for the file system")
	}

	proc := t.TempDir() + "/"
	if err := os.Symlink("/proc/self/fd/"+strconv.Itoa(mount), filepath.Join(proc, "root")); err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	if in, err := ask(t.Context(), &asking, func() (content, error) { return listRoot(proc) }); !errors.Is(err, errSilent) {
		t.Errorf("%+v, %v", in, err)
	}
}

// deadFileSystem mounts one nowhere and returns a descriptor of its root.
func deadFileSystem(t *testing.T) int {
	t.Helper()
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(server) }) // which ends all that waits
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	for key, value := range map[string]string{"fd": strconv.Itoa(server), "rootmode": "40000", "user_id": "0", "group_id": "0"} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			t.Fatal(key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(mount) })
	return mount
}
