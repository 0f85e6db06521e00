package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor/tail"
)

// killedExit is the exit code of a process that ended with its machine.
const killedExit = 128 + uint8(syscall.SIGKILL)

// IO says which standard streams a process has; what it lacks is /dev/null.
// With a terminal, Stdin and Stdout are the pty's two directions and Stderr is
// false.
type IO struct {
	Stdin, Stdout, Stderr bool
}

// Streams are the host's ends of a process's standard streams; absent ones are
// nil. Bytes go one way: Stdin is written, the others are read to their end.
type Streams struct {
	Stdin, Stdout, Stderr net.Conn
}

// Close closes all of them. Idempotent.
func (s *Streams) Close() {
	for _, conn := range []net.Conn{s.Stdin, s.Stdout, s.Stderr} {
		if conn != nil {
			conn.Close()
		}
	}
}

// Exit tells how a process ended.
type Exit struct {
	// Code is 0-255; 128 plus the signal's number for a signalled process.
	Code uint8
	// OOMKilled: the guest's kernel killed it for lack of memory.
	OOMKilled bool
	// At is when the host learnt of it.
	At time.Time
	// Reason is set when the process ended with its machine.
	Reason error

	oomEvents uint64 // of the container until then, see Container.WatchOOM
}

// Process is one process in a container: its init, or one that was added.
type Process struct {
	container, id string // id is empty for the init
	sandbox       *Sandbox
	// Streams belong to whoever created the process.
	Streams Streams

	done chan struct{} // closed after exit was written
	exit Exit
}

// Done is closed when the process has ended; Exit is valid from then on.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit tells how the process ended. Only after Done.
func (p *Process) Exit() Exit { return p.exit }

// lateTimeout is how long an answer about a process may take after its end, with
// which it crosses.
const lateTimeout = 10 * time.Second

// untilEnd ends a context when an answer about the process comes no more, since it
// has ended. cancel must be called.
func (p *Process) untilEnd(ctx context.Context) (_ context.Context, cancel context.CancelFunc) {
	ctx, cancelCause := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
		late := time.AfterFunc(lateTimeout, func() {
			cancelCause(fmt.Errorf("%w: the agent tells of the process's end, and not of its start", ErrNotRunning))
		})
		defer late.Stop()
		<-ctx.Done()
	}()
	return ctx, func() { cancelCause(nil) }
}

// openProcess connects the streams of a process that is about to be created,
// side by side.
func (s *Sandbox) openProcess(ctx context.Context, container, id string, want IO) (*Process, error) {
	p := &Process{container: container, id: id, sandbox: s, done: make(chan struct{})}
	group, groupCtx := errgroup.WithContext(ctx)
	open := func(wanted bool, stream protocol.Stream, conn *net.Conn) {
		if !wanted {
			return
		}
		group.Go(func() (err error) {
			s.streams.Add(1)
			*conn, err = s.agent.OpenStream(groupCtx, protocol.StreamHeader{Container: container, Process: id, Stream: stream})
			return err
		})
	}
	open(want.Stdin, protocol.Stdin, &p.Streams.Stdin)
	open(want.Stdout, protocol.Stdout, &p.Streams.Stdout)
	open(want.Stderr, protocol.Stderr, &p.Streams.Stderr)
	if err := group.Wait(); err != nil {
		p.Streams.Close()
		return nil, fmt.Errorf("connect the standard streams: %w", err)
	}
	return p, nil
}

// Processes lists the container's processes as the guest knows them.
func (c *Container) Processes(ctx context.Context) ([]*protocol.ProcessInfo, error) {
	if err := c.alive(); err != nil {
		return nil, err
	}
	ctx, cancel := c.sandbox.call(ctx)
	defer cancel()
	response, err := c.sandbox.agent.ListProcesses(ctx, &protocol.ContainerRequest{ContainerId: c.id})
	if err != nil {
		return nil, fmt.Errorf("list the container's processes: %w", agentErr(err))
	}
	return response.GetProcesses(), nil
}

// ExecOptions are what Exec needs.
type ExecOptions struct {
	// ID names the process in its container; not empty.
	ID string
	// Process is the guest's view of the OCI process, as JSON.
	Process []byte
	IO      IO
	// Cgroup is a path below the container's cgroup; empty: that itself.
	Cgroup string
}

// Exec adds a process to the container and starts it. It wraps ErrNotRunning
// unless the container was created and has not stopped. There may be a process
// although ctx has ended: a caller that does not want it any more has to end it.
func (c *Container) Exec(ctx context.Context, options ExecOptions) (*Process, error) {
	if status := c.Status(); status != StatusRunning && status != StatusCreated {
		return nil, fmt.Errorf("%w: cannot exec in a container that is %s", ErrNotRunning, status)
	}
	return c.sandbox.exec(ctx, c.id, options)
}

// exec adds a process to a container, or for an empty id to the guest itself.
func (s *Sandbox) exec(ctx context.Context, container string, options ExecOptions) (*Process, error) {
	opening, opened := s.call(ctx)
	process, err := s.openProcess(opening, container, options.ID, options.IO)
	opened()
	if err != nil {
		return nil, fmt.Errorf("exec failed: %w", err)
	}
	// Whoever asked may go meanwhile, but the guest has been asked: the process it
	// makes is one that can be ended.
	ctx, cancel := s.call(context.WithoutCancel(ctx))
	defer cancel()
	_, err = s.agent.ExecProcess(ctx, &protocol.ExecProcessRequest{
		ContainerId: container, ProcessId: options.ID, ProcessJson: options.Process,
		Stdin: options.IO.Stdin, Stdout: options.IO.Stdout, Stderr: options.IO.Stderr, Cgroup: options.Cgroup,
	})
	if err != nil {
		process.Streams.Close()
		return nil, fmt.Errorf("exec failed: %w", agentErr(err))
	}
	s.background.Go(func() {
		process.await(s)
		close(process.done)
	})
	return process, nil
}

// await blocks until the process or the machine has ended and records how.
func (p *Process) await(s *Sandbox) {
	response, err := s.agent.WaitProcess(s.life, &protocol.ProcessRequest{ContainerId: p.container, ProcessId: p.id})
	p.exit.At = time.Now()
	if err != nil {
		// An agent that breaks the connection, or answers nonsense, cannot be
		// worked with any longer: the machine goes, unless it has gone before, with a
		// reason of its own.
		s.endedWithin(err, reasonTimeout)
		s.giveUp(fmt.Errorf("%w: wait for a process: %w", ErrMachineEnded, agentErr(err)))
		p.exit.Code, p.exit.Reason = killedExit, context.Cause(s.life)
		return
	}
	// The code comes from the guest: only eight bits of it are believed.
	p.exit.Code = uint8(response.GetExitCode() & 0xff)
	p.exit.OOMKilled, p.exit.oomEvents = response.GetOomKilled(), response.GetOomEvents()
}

// Signal sends a signal to the process. It wraps ErrNotRunning once the process
// has ended.
func (p *Process) Signal(ctx context.Context, signal syscall.Signal) error {
	return p.signal(ctx, signal, false)
}

func (p *Process) signal(ctx context.Context, signal syscall.Signal, all bool) error {
	select {
	case <-p.done:
		return ErrNotRunning
	default:
	}
	ctx, cancel := p.sandbox.call(ctx)
	defer cancel()
	_, err := p.sandbox.agent.SignalProcess(ctx, &protocol.SignalProcessRequest{
		ContainerId: p.container, ProcessId: p.id, Signal: uint32(signal), All: all,
	})
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.NotFound, status.Code(err) == codes.FailedPrecondition, p.sandbox.endedWith(err):
		return fmt.Errorf("%w: %w", ErrNotRunning, agentErr(err))
	default:
		return fmt.Errorf("send signal %d: %w", signal, agentErr(err))
	}
}

// Resize tells the process's terminal its size in characters.
func (p *Process) Resize(ctx context.Context, rows, columns uint16) error {
	ctx, cancel := p.sandbox.call(ctx)
	defer cancel()
	_, err := p.sandbox.agent.ResizeTerminal(ctx, &protocol.ResizeTerminalRequest{
		ContainerId: p.container, ProcessId: p.id, Rows: uint32(rows), Columns: uint32(columns),
	})
	if err != nil {
		return fmt.Errorf("resize the terminal: %w", agentErr(err))
	}
	return nil
}

// agentErr strips the transport's wording from an error of the agent: its text is
// for the person who reads it.
func agentErr(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		return &agentError{code: s.Code(), text: harmless(s.Message()), cause: err}
	}
	return err
}

// maxErrorText bounds how much of an agent's error is quoted, in bytes.
const maxErrorText = 4096

// harmless makes text from the guest safe to print on a terminal.
func harmless(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + " ..."
	}
	return tail.Sanitize(text)
}

// agentError is an answer of the agent.
type agentError struct {
	code  codes.Code
	text  string
	cause error
}

func (e *agentError) Error() string {
	if e.text == "" {
		return errors.Unwrap(e).Error()
	}
	return e.text
}

func (e *agentError) Unwrap() error { return e.cause }
