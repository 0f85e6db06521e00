package locks

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread waits for nothing any more when it is to be killed and cannot be interrupted.
func TestDyingThreads(t *testing.T) {
	for text, want := range map[string]bool{
		"Name:\tfiler\nState:\tD (disk sleep)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": true,
		"Name:\tfiler\nState:\tD (disk sleep)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000102\n": true,
		"Name:\tfiler\nState:\tD (disk sleep)\nSigPnd:\t0000000000004000\nShdPnd:\t0000000000004000\n": false,
		"Name:\tfiler\nState:\tS (sleeping)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000100\n":   false,
		"": false,
	} {
		path := filepath.Join(t.TempDir(), "status")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := isDying(path); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
	if isDying("/proc/self/status") || isDying("/nowhere") {
		t.Error("who lives is dying")
	}
}

// A container that is gone, or none, is looked at no more.
func TestReleaseOfAGroup(t *testing.T) {
	group := t.TempDir()
	r := New(t.TempDir())
	if alive, dying := r.release(filepath.Join(group, "none")); alive || dying != 0 {
		t.Errorf("no group: %t, %d", alive, dying)
	}
	if err := os.Mkdir(filepath.Join(group, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(group, "below", "cgroup.procs"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if alive, dying := r.release(group); !alive || dying != 0 {
		t.Errorf("a group with a process below: %t, %d", alive, dying)
	}
}

// However many containers are signalled at once, each is looked at: those of a pod
// that is stopped, say.
func TestManyGroupsAreSignalled(t *testing.T) {
	r := New(t.TempDir())
	const many = 200
	for i := range 2 * many {
		r.Signalled(strconv.Itoa(i % many))
	}
	<-r.wake
	if got := r.take(); len(got) != many {
		t.Errorf("%d groups are looked at, want %d", len(got), many)
	}
	if got := r.take(); len(got) != 0 {
		t.Errorf("%d groups are looked at again", len(got))
	}
}

// Signals that end nobody make no work.
func TestSignalsThatEnd(t *testing.T) {
	for signal, want := range map[unix.Signal]bool{0: false, unix.SIGKILL: true, unix.SIGTERM: true, unix.SIGWINCH: false, unix.SIGUSR1: true} {
		if got := Ends(uint32(signal)); got != want {
			t.Errorf("signal %d: %t, want %t", signal, got, want)
		}
	}
}
