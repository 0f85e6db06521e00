package passthrough_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/fsevents"
)

// patience is how long a test waits for what is to be told.
const patience = time.Minute

// collect reads what is told until nothing of want is missing.
func (l *listener) collect(want ...string) (told []string) {
	l.t.Helper()
	more := make(chan []fsevents.Event)
	missing := slices.Clone(want)
	deadline := time.After(patience)
	for len(missing) > 0 {
		go func() {
			text, _ := l.fs.ReadEvents(fsevents.ReadSize)
			events, _ := fsevents.Parse(text)
			more <- events
		}()
		select {
		case events := <-more:
			for _, e := range events {
				what := fmt.Sprintf("%d %s/%s", e.Kind, e.Directory, e.Name)
				if e.Kind == fsevents.Moved {
					what = fmt.Sprintf("%d to %s/%s", e.Kind, e.To, e.ToName)
				}
				told = append(told, what)
				missing = slices.DeleteFunc(missing, func(m string) bool { return m == what })
			}
		case <-deadline:
			l.t.Fatalf("the guest is not told of %q", missing)
		}
	}
	return told
}

// overflow makes more events than the kernel's queue holds.
func overflow(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	var most int
	if _, err := fmt.Sscan(string(text), &most); err != nil {
		t.Fatal(err)
	}
	names := [2]string{dir + "/a", dir + "/b"}
	for i := range most/2 + 1000 {
		if err := os.Rename(names[i%2], names[(i+1)%2]); err != nil {
			t.Fatal(err)
		}
	}
}

// What the kernel's queue has no room for is told all the same, as one change for each file.
func TestChangesBeyondTheKernelsQueueAreMadeUpFor(t *testing.T) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(volume, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", "sub", "gone directory", "..old"} {
		if err := os.Mkdir(filepath.Join(volume, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"a", "same", "gone", "replaced", "modified", "mode", "unknown", "sub/same", "sub/modified"}
	for _, name := range names {
		write(name, "before")
	}
	if err := os.Symlink("..old", filepath.Join(volume, "..data")); err != nil {
		t.Fatal(err)
	}
	age(t, volume+"/sub/modified")
	age(t, volume) // which had a name last
	l := listenIn(t, dir, 0)
	for _, name := range append(names, "gone directory", "..data", "sub") {
		if name != "unknown" {
			l.lookup("volume/" + name)
		}
	}
	resume := l.fs.StallEvents()
	overflow(t, volume)
	write("new", "content")
	write("sub/new", "content")
	write("modified", "after")
	write("unknown", "after")
	write("sub/modified", "after")
	write("moved", "after")
	for _, err := range []error{
		os.Rename(volume+"/moved", volume+"/replaced"), os.Remove(volume + "/gone"), os.Remove(volume + "/gone directory"),
		os.Chmod(volume+"/mode", 0o600), os.Mkdir(volume+"/made", 0o755),
		os.Symlink("sub", volume+"/..tmp"), os.Rename(volume+"/..tmp", volume+"/..data"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	resume()
	is := func(kind fsevents.Kind, name string) string { return fmt.Sprintf("%d volume/%s", kind, name) }
	told := l.collect(
		is(fsevents.Created, "new"), is(fsevents.Written, "new"), is(fsevents.Created, "made"), is(fsevents.Created, "sub/new"),
		is(fsevents.Modified, "modified"), is(fsevents.Written, "modified"), is(fsevents.Modified, "sub/modified"),
		is(fsevents.Modified, "unknown"), is(fsevents.Deleted, "gone"), is(fsevents.Deleted, "gone directory"),
		is(fsevents.Changed, "mode"), is(fsevents.Changed, ""),
		fmt.Sprintf("%d to volume/replaced", fsevents.Moved), fmt.Sprintf("%d to volume/..data", fsevents.Moved),
	)
	for _, what := range told {
		if strings.HasSuffix(what, "same") {
			t.Errorf("the guest is told %q of what has not changed", what)
		}
	}
}

// What does not wait for a guest that is slow to repeat is told later: the last of thousands
// of files as well.
func TestChangesBeyondTheGuestsQueueAreMadeUpFor(t *testing.T) {
	l := listen(t, 0)
	l.lookup("volume")
	const many = 5000 // and the kernel's queue has room for their events
	resume := l.fs.StallEvents()
	var want []string
	for i := range many {
		name := fmt.Sprint(i)
		if err := unix.Mknod(filepath.Join(l.dir, "volume", name), unix.S_IFREG|0o644, 0); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%d volume/%s", fsevents.Created, name))
	}
	resume()
	l.collect(want...)
}

// A guest that reads nothing does not keep a mount of the host busy: what is made up for
// waits for it without any descriptor.
func TestWhatWaitsForTheGuestKeepsNoMountBusy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system: run as root")
	}
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	if err := errors.Join(os.Mkdir(volume, 0o755), unix.Mount("none", volume, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
	l := listenIn(t, dir, 0)
	l.lookup("volume")
	resume := l.fs.StallEvents()
	const many = 5000
	for i := range many {
		if err := unix.Mknod(filepath.Join(volume, fmt.Sprint(i)), unix.S_IFREG|0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	resume()
	waitFor(t, "what is made up for to wait", func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("awaitRoom"))
	})
	waitFor(t, "the mount to be free", func() bool { return unix.Unmount(volume, 0) == nil })
}

// What happened before a guest has started again is not made up for.
func TestNothingOfAFormerGuestIsMadeUpFor(t *testing.T) {
	l := listen(t, 0)
	volume := filepath.Join(l.dir, "volume")
	l.file("volume/a", "")
	l.lookup("volume")
	l.fs.OnUnmount()
	l.file("volume/before", "content")
	age(t, volume+"/before")
	age(t, volume)
	l.open()
	l.lookup("volume")
	resume := l.fs.StallEvents()
	overflow(t, volume)
	l.file("volume/last", "")
	resume()
	for _, what := range l.collect(fmt.Sprintf("%d volume/last", fsevents.Created)) {
		if strings.HasSuffix(what, "before") {
			t.Errorf("the guest is told %q", what)
		}
	}
}
