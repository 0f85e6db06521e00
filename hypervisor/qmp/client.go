package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed says that the connection has ended: QEMU is gone, it broke the
// protocol, or Close was called. Errors that wrap it wrap the cause as well.
var ErrClosed = errors.New("qmp connection has ended")

// ErrSilent says that QEMU has not answered a command in answerTimeout. What it
// does later with it is open.
var ErrSilent = errors.New("QEMU does not answer")

const (
	// answerTimeout bounds each command, also of callers that wait for ever: a QEMU in
	// the hands of its guest need not answer. An honest one that has 64 vCPUs started
	// under emulation on a busy host took seconds.
	answerTimeout = 2 * time.Minute
	// eventBurst events are taken as they come, further ones at eventInterval: so many
	// that QEMU cannot keep this process busy with them. A guest's QEMU sends tens. One
	// of more than eventSize bytes counts as many, and so does an answer that nobody
	// waits for.
	eventBurst    = 4096
	eventInterval = time.Millisecond
	eventSize     = 4 << 10
)

// Client speaks QMP over one connection. Its methods are safe for concurrent
// use.
type Client struct {
	conn    net.Conn
	version Version
	onEvent func(Event)
	// closing is closed by Close.
	closing chan struct{}
	once    sync.Once
	// done is closed after the last event was handed over and end was set.
	done chan struct{}

	// sending is held while a command is written, so that commands and the
	// descriptors beside them do not mix.
	sending sync.Mutex

	mu sync.Mutex
	// nextID, pending and end are guarded by mu. pending holds the calls
	// that wait; end is why there will be no more answers.
	nextID  uint64
	pending map[uint64]chan *message
	end     error
}

// New takes over conn: it reads the greeting and leaves negotiation mode. ctx
// bounds that alone. onEvent, if not nil, gets every event in order from the
// goroutine that reads the connection: it must neither block nor call Execute.
// On an error conn is closed.
func New(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	c := &Client{
		conn: conn, onEvent: onEvent,
		done:    make(chan struct{}),
		closing: make(chan struct{}),
		pending: make(map[uint64]chan *message),
	}
	reader := bufio.NewReaderSize(conn, 16<<10)
	if err := c.greet(ctx, reader); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("read qmp greeting: %w", err)
	}
	go c.read(reader)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// greet reads QEMU's first line. Events cannot come before it.
func (c *Client) greet(ctx context.Context, reader *bufio.Reader) error {
	release := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	var scratch []byte
	line, err := readLine(reader, &scratch)
	if !release() {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	m, err := decode(line)
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		return fmt.Errorf("decode %.80q: not a greeting", line)
	}
	v := m.Greeting.Version
	c.version = Version{Major: v.QEMU.Major, Minor: v.QEMU.Minor, Micro: v.QEMU.Micro, Package: v.Package}
	return nil
}

// Version returns what the greeting said.
func (c *Client) Version() Version { return c.version }

// Done is closed when the connection has ended and every event that came
// before its end was handed over.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and waits for the reading goroutine. Calls that
// wait return ErrClosed. Idempotent. Not to be called from onEvent.
func (c *Client) Close() error {
	c.once.Do(func() { close(c.closing) })
	c.fail(net.ErrClosed)
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// read hands out messages until the connection ends.
func (c *Client) read(reader *bufio.Reader) {
	defer close(c.done)
	var scratch []byte
	events := pace{left: eventBurst, at: time.Now()}
	for {
		line, err := readLine(reader, &scratch)
		if err == nil {
			err = c.dispatch(line, &events)
		}
		if cap(scratch) > keptLine {
			scratch = nil
		}
		if err != nil {
			c.fail(err)
			_ = c.conn.Close()
			return
		}
	}
}

// dispatch hands one message to whom it belongs. An answer whose call has given
// up is dropped.
func (c *Client) dispatch(line []byte, events *pace) error {
	m, err := decode(line)
	switch {
	case err != nil:
		return err
	case m.Event != "":
		c.await(events.take(time.Now(), len(line)))
		if c.onEvent != nil {
			c.onEvent(m.event())
		}
		return nil
	case m.Greeting != nil:
		return errors.New("a second greeting")
	case m.ID == nil && m.Error != nil:
		// QEMU could not even parse what it was sent.
		return m.Error
	case m.ID == nil:
		return errors.New("an answer without id")
	}
	c.mu.Lock()
	reply := c.pending[*m.ID]
	delete(c.pending, *m.ID)
	c.mu.Unlock()
	if reply != nil {
		reply <- m
	} else {
		c.await(events.take(time.Now(), len(line)))
	}
	return nil
}

// await waits for a while, or until Close.
func (c *Client) await(pause time.Duration) {
	if pause <= 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.closing:
	}
}

// pace lets through eventBurst events at once, and one more for each eventInterval.
// It is one goroutine's, which waits as long as it is told.
type pace struct {
	left int
	at   time.Time // when left was right
}

// take takes an event of so many bytes, and returns how long that has to wait.
func (p *pace) take(now time.Time, size int) time.Duration {
	if more := int(now.Sub(p.at) / eventInterval); more > 0 {
		p.left, p.at = min(eventBurst, p.left+more), p.at.Add(time.Duration(more)*eventInterval)
	}
	p.left -= 1 + size/eventSize // below zero: borrowed from what comes
	return p.at.Add(time.Duration(-p.left) * eventInterval).Sub(now)
}

// fail ends every call that waits and every later one. The first cause stays.
func (c *Client) fail(cause error) {
	if errors.Is(cause, io.EOF) {
		cause = errors.New("closed by QEMU")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		c.end = fmt.Errorf("%w: %w", ErrClosed, cause)
	}
	for id, reply := range c.pending {
		close(reply)
		delete(c.pending, id)
	}
}

// Execute runs command. arguments, unless nil, is what JSON makes an object of.
// The answer is stored into result, unless that is nil. A refusal by QEMU is an
// *Error, a dead connection wraps ErrClosed, and ctx's end is ctx's error: QEMU
// may have run the command nevertheless.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.execute(ctx, command, arguments, result, nil)
}

// ExecuteWithFile is Execute with a descriptor sent beside the command, as
// getfd and add-fd want. QEMU gets a duplicate. The connection must be a
// *net.UnixConn.
func (c *Client) ExecuteWithFile(ctx context.Context, command string, arguments, result any, file *os.File) error {
	if _, ok := c.conn.(*net.UnixConn); !ok {
		return fmt.Errorf("qmp %s: %T carries no descriptors: %w", command, c.conn, errors.ErrUnsupported)
	}
	if file == nil {
		return fmt.Errorf("qmp %s: no descriptor: %w", command, os.ErrInvalid)
	}
	return c.execute(ctx, command, arguments, result, file)
}

func (c *Client) execute(ctx context.Context, command string, arguments, result any, file *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, fmt.Errorf("%w within %s", ErrSilent, answerTimeout))
	defer cancel()
	if err := reason(ctx); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	id, reply, err := c.register()
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	defer c.forget(id)
	line, err := json.Marshal(request{Execute: command, Arguments: arguments, ID: id})
	if err != nil {
		return fmt.Errorf("qmp %s: encode arguments: %w", command, err)
	}
	if err := c.send(ctx, append(line, '\n'), file); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case m, ok := <-reply:
		return c.decode(command, m, ok, result)
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, reason(ctx))
	}
}

// reason is why a command's context has ended, nil if it has not.
func reason(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrSilent) {
		return cause
	}
	return ctx.Err()
}

// decode turns an answer into Execute's result; ok is false when the connection
// ended instead.
func (c *Client) decode(command string, m *message, ok bool, result any) error {
	switch {
	case !ok:
		return fmt.Errorf("qmp %s: %w", command, c.Err())
	case m.Error != nil:
		m.Error.Command = command
		return m.Error
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp %s: decode answer: %w", command, err)
	}
	return nil
}

// Err returns why the connection ended, which wraps ErrClosed, or nil while it
// lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end
}

func (c *Client) register() (uint64, chan *message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return 0, nil, c.end
	}
	c.nextID++
	reply := make(chan *message, 1)
	c.pending[c.nextID] = reply
	return c.nextID, reply, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// send writes a whole command. A command that was cut short would spoil the
// next one, so that ends the connection.
func (c *Client) send(ctx context.Context, line []byte, file *os.File) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if err := reason(ctx); err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Time{}); err != nil {
		return c.broken(err)
	}
	var cut sync.WaitGroup
	cut.Add(1)
	release := context.AfterFunc(ctx, func() {
		defer cut.Done()
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	n, err := c.write(line, file)
	if !release() {
		// The deadline must be in place before the next command lifts it.
		cut.Wait()
	}
	switch {
	case err == nil:
		return nil
	case n == 0 && ctx.Err() != nil:
		return reason(ctx)
	default:
		return c.broken(err)
	}
}

// write returns how much of line was written.
func (c *Client) write(line []byte, file *os.File) (int, error) {
	if file == nil {
		return c.conn.Write(line)
	}
	unixConn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var sendErr error
	// Control keeps the descriptor open, and unlike Fd leaves it non-blocking.
	err = raw.Control(func(fd uintptr) {
		n, _, sendErr = unixConn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(err, sendErr); err != nil || n == len(line) {
		return n, err
	}
	rest, err := c.conn.Write(line[n:])
	return n + rest, err
}

// broken ends the connection after a failed write. The reader, which sees the
// end, is left to finish.
func (c *Client) broken(cause error) error {
	if errors.Is(cause, unix.EPIPE) || errors.Is(cause, unix.ECONNRESET) {
		cause = errors.New("closed by QEMU")
	}
	c.fail(cause)
	_ = c.conn.Close()
	return c.Err()
}
