// Package locks lets processes die that wait for a lock on a share. Linux waits for the
// answer to such a request whatever becomes of the process, and has no interrupts on
// virtio-fs that would tell the file server of it. So the agent, when it has signalled a
// container, looks for threads that are dying and wait, and tells the server, which answers
// that the wait was interrupted.
package locks

import (
	"bufio"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/internal/fsevents"
)

const (
	// firstLook is when a container is looked at after a signal, and so long again, and
	// twice as long each time. A container's first process takes the others along.
	firstLook = 20 * time.Millisecond
	// looks is how often that is where none of its threads is dying.
	looks = 6
)

// Releaser is for one share.
type Releaser struct {
	share string

	mu sync.Mutex
	// signalled are groups that are to be looked at: no more than there are containers.
	signalled map[string]bool
	wake      chan struct{} // has one when there are some
}

// New is for the share that is mounted there.
func New(share string) *Releaser {
	return &Releaser{share: share, signalled: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Signalled is called when processes of a control group may be about to die.
func (r *Releaser) Signalled(group string) {
	r.mu.Lock()
	r.signalled[group] = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take returns the groups that were signalled since the last call.
func (r *Releaser) take() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	groups := r.signalled
	r.signalled = map[string]bool{}
	return groups
}

// Ends reports whether a signal ends a process that does not handle it.
func Ends(signal uint32) bool {
	switch unix.Signal(signal) {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH:
		return false
	default:
		return true
	}
}

// look is what is left to do for a container.
type look struct {
	at    time.Time
	pause time.Duration
	left  int
}

// Run looks at containers until ctx ends.
func (r *Releaser) Run(ctx context.Context) {
	pending := map[string]look{}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var next time.Time
		for _, l := range pending {
			if next.IsZero() || l.at.Before(next) {
				next = l.at
			}
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			for group := range r.take() {
				pending[group] = look{time.Now().Add(firstLook), firstLook, looks}
			}
		case now := <-timer.C:
			for group, l := range pending {
				if l.at.After(now) {
					continue
				}
				alive, dying := r.release(group)
				if l.left--; !alive || l.left == 0 && dying == 0 {
					delete(pending, group)
					continue
				}
				l.left = max(l.left, 1)
				l.pause = min(2*l.pause, time.Second)
				l.at = now.Add(l.pause)
				pending[group] = l
			}
		}
	}
}

// release tells the server of the dying threads of a group and those below it. alive is
// whether there are any processes.
func (r *Releaser) release(group string) (alive bool, dying int) {
	_ = filepath.WalkDir(group, func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil //nolint:nilerr // it is gone, and what is beside it may not be
		}
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // or it is gone
		for pid := range strings.FieldsSeq(string(procs)) {
			alive = true
			tasks, err := os.ReadDir(filepath.Join("/proc", pid, "task"))
			if err != nil {
				continue
			}
			for _, task := range tasks {
				if isDying(filepath.Join("/proc", pid, "task", task.Name(), "status")) {
					dying++
					// That there is no such file is the answer.
					_ = unix.Access(filepath.Join(r.share, fsevents.GiveUp+task.Name()), unix.F_OK)
				}
			}
		}
		return nil
	})
	return alive, dying
}

// isDying is whether a thread waits that cannot be interrupted, and SIGKILL waits for it,
// which Linux makes of each signal that ends a process.
func isDying(status string) bool {
	f, err := os.Open(status)
	if err != nil {
		return false
	}
	defer f.Close()
	const kill = 1 << (unix.SIGKILL - 1)
	waits, killed := false, false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			waits = strings.HasPrefix(value, "D")
		case "SigPnd", "ShdPnd":
			set, err := strconv.ParseUint(value, 16, 64)
			killed = killed || err == nil && set&kill != 0
		}
	}
	return waits && killed
}
