// Package child starts the processes that must not outlive this one: VMM and
// virtiofsd. It owns the thread that they are forked from.
//
// The kernel sends a parent-death signal (prctl(2), PR_SET_PDEATHSIG) when the
// *thread* that forked ends, not when the process does. The Go runtime moves
// goroutines between threads and may end a thread at any time, so a child of an
// ordinary os/exec start could be killed while its parent is well. A Starter
// forks from one thread of its own.
package child

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

// ErrClosed says that the Starter was closed.
var ErrClosed = errors.New("process starter is closed")

// Starter forks processes from one locked OS thread, which lives until Close.
// Its methods are safe for concurrent use. The zero value is not usable.
type Starter struct {
	requests chan request
	closing  chan struct{}
	once     sync.Once
	thread   sync.WaitGroup
}

type request struct {
	cmd        *exec.Cmd
	securebits int
	reply      chan error
}

// NewStarter returns a Starter with its thread running. Close ends it.
func NewStarter() *Starter {
	s := &Starter{requests: make(chan request), closing: make(chan struct{})}
	s.thread.Add(1)
	go s.run()
	return s
}

// run never unlocks the thread: the Go runtime ends a thread whose goroutine
// returned while locked to it.
func (s *Starter) run() {
	defer s.thread.Done()
	runtime.LockOSThread()
	for {
		select {
		case r := <-s.requests:
			r.reply <- start(r.cmd, r.securebits)
		case <-s.closing:
			return
		}
	}
}

// start starts cmd with more securebits than the calling thread has.
func start(cmd *exec.Cmd, securebits int) error {
	if securebits == 0 {
		return cmd.Start()
	}
	old, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(old|securebits), 0, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("set securebits: %w", err)
	}
	err = cmd.Start()
	// What was just allowed to be set can be taken back: no bit is locked.
	return errors.Join(err, unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(old), 0, 0, 0))
}

// Start starts cmd as cmd.Start does, with SIGKILL as the parent-death signal
// and, unless cmd asks for a session of its own, as the leader of a new process
// group, so that a terminal's signals do not reach it. Other attributes that
// were set in cmd.SysProcAttr stay. It returns ErrClosed after Close.
//
// The kernel forgets the signal when the child changes its user or group id, or
// executes a set-user-id program.
func (s *Starter) Start(cmd *exec.Cmd) error { return s.StartWithSecurebits(cmd, 0) }

// StartWithSecurebits is Start for a child that has these securebits as well
// (capabilities(7)); setting them takes CAP_SETPCAP.
func (s *Starter) StartWithSecurebits(cmd *exec.Cmd, securebits int) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// A session leader leads its group already, and setpgid fails for it.
	if !cmd.SysProcAttr.Setsid {
		cmd.SysProcAttr.Setpgid = true
	}
	r := request{cmd: cmd, securebits: securebits, reply: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-s.closing:
		return ErrClosed
	}
	if err := jail.Explain(cmd.SysProcAttr.Cloneflags, <-r.reply); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// Close ends the thread. Processes that it started and that still run are
// killed by the kernel, as if this process had died; wait for them first.
// Idempotent.
func (s *Starter) Close() {
	s.once.Do(func() { close(s.closing) })
	s.thread.Wait()
}
