package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// sleep is what stands for the first process of a container whose program would
// only pause: nothing runs, and what callers may ask of such a process is answered
// for it. Whatever else needs the process wakes it: then it is made, and the
// container is as any other.
type sleep struct {
	streams connections       // the process's
	sources map[string]string // of showSockets

	mu sync.Mutex // guards what follows; held while the process is made
	// over: the process is there, or the container has ended without it.
	over            bool
	started, frozen bool
}

// maySleep tells whether nobody would miss the first process of a container that
// has the pod's IPC and UTS namespace: these need none. What sets up its other
// namespaces is the process.
func maySleep(spec *specs.Spec) bool {
	linux := spec.Linux
	private := slices.ContainsFunc(linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		switch ns.Type {
		case specs.UserNamespace, specs.TimeNamespace:
			return true
		case specs.IPCNamespace, specs.UTSNamespace:
			return ns.Path != protocol.SandboxNamespace
		case specs.PIDNamespace, specs.CgroupNamespace:
			return ns.Path != ""
		case specs.MountNamespace, specs.NetworkNamespace:
		}
		return false
	})
	for key := range linux.Sysctl {
		if path, ok := protocol.SysctlPath(key); !ok || !strings.HasPrefix(path, "net/") {
			return false // set by the process, from inside
		}
	}
	if spec.Process.ApparmorProfile != "" || spec.Process.SelinuxLabel != "" {
		return false // whether the kernel knows it, the process finds out
	}
	// The first process of a PID namespace is deaf to most signals.
	return !private && hasNamespace(linux, specs.PIDNamespace) && !spec.Process.Terminal && spec.Domainname == "" &&
		(spec.Hooks == nil || len(spec.Hooks.StartContainer) == 0)
}

// fallAsleep completes the creation of a container without its first process.
func (r *Runtime) fallAsleep(c *container, s *sleep, req *protocol.CreateContainerRequest) (err error) {
	if c.spec.Hostname != "" { // in the pod's namespace, as the process would
		if err := r.SetHostname(c.spec.Hostname); err != nil {
			return err
		}
	}
	s.streams, err = claim(r.streams, c.id, launchOptions{stdin: req.GetStdin(), stdout: req.GetStdout(), stderr: req.GetStderr()})
	if err != nil {
		return err
	}
	c.init, c.sleep = &process{done: make(chan struct{})}, s
	return nil
}

// whileAsleep calls f if the container's first process is not there, and keeps it
// from being made meanwhile. It tells whether it has, or f was too late since the
// container has ended, which is ErrNotRunning.
func (c *container) whileAsleep(f func(s *sleep) error) (asleep bool, err error) {
	s := c.sleep
	if s == nil {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.over:
		return true, f(s)
	case c.lc == nil:
		return true, ErrNotRunning
	}
	return false, nil
}

// wake makes the first process of a container that sleeps.
func (r *Runtime) wake(ctx context.Context, c *container) error {
	_, err := c.whileAsleep(func(s *sleep) error {
		r.log.Debug("the first process is needed", "container", c.id)
		// What has begun goes on: it could not be begun again.
		if err := r.makeFirst(context.WithoutCancel(ctx), c, s); err != nil {
			return fmt.Errorf("make its first process: %w", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("container %q: %w", c.id, err)
	}
	return nil
}

// makeFirst makes the first process of a container that sleeps, and brings it to
// where it would be. The caller holds the sleep's mu.
func (r *Runtime) makeFirst(ctx context.Context, c *container, s *sleep) (err error) {
	lc, err := r.newLibcontainer(c)
	if err != nil {
		return err
	}
	c.lc = lc
	streams := s.streams
	s.streams = connections{} // launch owns them: another attempt does without
	if _, err := r.launch(c, c.spec.Process, launchOptions{init: true, first: c.init, claimed: &streams}); err != nil {
		streams.close()
		c.lc = nil
		return errors.Join(err, lc.Destroy(), os.RemoveAll(filepath.Join(r.stateDir, c.id)))
	}
	s.over = true // from now on it ends as any other
	r.showSockets(c, s.sources)
	err = c.setDiskWeights(c.spec.Linux.Resources)
	if err == nil && s.started {
		if err = lc.Exec(); err == nil {
			err = c.init.awaitProgram(ctx)
		}
	}
	if err == nil && s.frozen {
		err = lc.Pause()
	}
	return err
}

// signalAsleep does what a signal would do to a pausing program. It tells whether
// it could: for the others, the program has to be there.
func (c *container) signalAsleep(signal unix.Signal) (done bool, err error) {
	_, err = c.whileAsleep(func(s *sleep) error {
		switch signal {
		case unix.SIGKILL:
			c.endAsleep(s, Exit{Code: 128 + int(signal), Signal: int(signal)})
			done = true
		case unix.SIGTERM, unix.SIGINT:
			if s.started && !s.frozen {
				c.endAsleep(s, Exit{})
				done = true
			}
		case 0, unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH, unix.SIGCONT:
			done = true
		default: // the program may have something to do
		}
		return nil
	})
	return done, err
}

// endAsleep ends a container without its first process. The caller holds the
// sleep's mu.
func (c *container) endAsleep(s *sleep, exit Exit) {
	s.over = true
	s.streams.close()
	exit.At = time.Now()
	c.init.exit = exit
	close(c.init.done)
}
