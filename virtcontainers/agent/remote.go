package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"kata-runtime/virtcontainers/agent/plain"
)

// remote is a connection to the agent by way of the process that reads what it says.
type remote struct {
	conn     *net.UnixConn
	methods  map[string]int
	all      []plain.Method
	patience time.Duration // of a write
	writing  chan struct{} // has room for who writes
	reading  sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	last    uint32     // ID of the last request
	pending map[uint32]*question
	failed  error // why the connection has ended
}

// question is a call that waits for its answer.
type question struct {
	method   int
	answered chan struct{} // closed when the fields below are set
	status   uint32
	values   []byte
}

// newRemote hands the connection with the agent over to the process at the other end
// of conn, which it closes at the latest in close.
func newRemote(conn *net.UnixConn, guest net.Conn, patience time.Duration) (*remote, error) {
	defer guest.Close() // the process has its own
	r := &remote{
		conn: conn, methods: make(map[string]int), all: plain.Methods(), patience: patience,
		writing: make(chan struct{}, 1), pending: make(map[uint32]*question),
	}
	for i, m := range r.all {
		r.methods[m.Name] = i
	}
	if err := handOver(conn, guest); err != nil {
		return nil, errors.Join(fmt.Errorf("hand the agent's connection over: %w", err), conn.Close())
	}
	r.reading.Go(r.read)
	return r, nil
}

var (
	errNoDescriptor = errors.New("it has no descriptor")
	errReaderGone   = fmt.Errorf("the process that reads what the guest says has ended: %w", ttrpc.ErrClosed)
)

// handOver sends the descriptor of the connection with the agent.
func handOver(conn *net.UnixConn, guest net.Conn) error {
	file, ok := guest.(syscall.Conn)
	if !ok {
		return errNoDescriptor
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = conn.WriteMsgUnix([]byte{plain.Handover}, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// close ends the connection. Idempotent.
func (r *remote) close() error {
	r.fail(ttrpc.ErrClosed)
	err := r.conn.Close()
	r.reading.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// fail ends every call; the first reason counts.
func (r *remote) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return
	}
	r.failed = err
	for _, q := range r.pending {
		close(q.answered)
	}
	r.pending = nil
}

func (r *remote) abort() { r.conn.Close() }

// failure is why the connection has ended, or nil.
func (r *remote) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// call asks the agent. A call that is given up is answered nevertheless, which the
// process then does not pass on.
func (r *remote) call(ctx context.Context, name string, request, answer proto.Message) error {
	message, err := proto.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	if len(message) > plain.MaxRequest {
		return status.Errorf(codes.ResourceExhausted, "a request of %d bytes to %s, which has %d at most", len(message), name, plain.MaxRequest)
	}
	var timeout time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		if timeout = time.Until(deadline); timeout <= 0 {
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	id, q, err := r.send(ctx, r.methods[name], timeout, message)
	if err != nil {
		return err
	}
	select {
	case <-q.answered:
	case <-ctx.Done():
		r.giveUp(id)
		return context.Cause(ctx)
	}
	switch {
	case q.values == nil:
		return r.failure()
	case q.status != 0 && tooLate(ctx, codes.Code(q.status)):
		<-ctx.Done()
		return context.Cause(ctx)
	case q.status != 0:
		return status.Error(codes.Code(q.status), string(q.values))
	}
	if err := decode(r.all[q.method], q.values, answer.ProtoReflect()); err != nil {
		err = fmt.Errorf("%w: %w", ErrMalformed, err)
		r.fail(err)
		r.conn.Close()
		return err
	}
	return nil
}

// send sends a request in its turn, which is also that of its ID.
func (r *remote) send(ctx context.Context, method int, timeout time.Duration, message []byte) (uint32, *question, error) {
	select {
	case r.writing <- struct{}{}:
		defer func() { <-r.writing }()
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	q := &question{method: method, answered: make(chan struct{})}
	r.mu.Lock()
	if r.failed != nil || r.last == plain.MaxID {
		defer r.mu.Unlock()
		if r.failed == nil {
			return 0, nil, fmt.Errorf("%w: it has had %d calls", ttrpc.ErrClosed, r.last)
		}
		return 0, nil, r.failed
	}
	r.last++
	id := r.last
	r.pending[id] = q
	r.mu.Unlock()
	head := plain.Request{ID: id, Method: method, Timeout: timeout, Length: len(message)}
	return id, q, r.write(append(head.Encode(), message...))
}

// giveUp lets a call have no answer.
func (r *remote) giveUp(id uint32) {
	r.mu.Lock()
	_, waits := r.pending[id]
	delete(r.pending, id)
	r.mu.Unlock()
	if !waits {
		return
	}
	// Not to be kept by others' requests: the caller has given up.
	go func() {
		r.writing <- struct{}{}
		defer func() { <-r.writing }()
		_ = r.write(plain.Request{ID: id, Method: plain.Cancel}.Encode()) // a failure ends it all
	}()
}

// write writes to the process, in turn. A failure ends the connection.
func (r *remote) write(p []byte) error {
	err := r.conn.SetWriteDeadline(time.Now().Add(r.patience))
	if err == nil {
		_, err = r.conn.Write(p)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: %d bytes within %v", ErrStalled, len(p), r.patience)
	} else {
		err = fmt.Errorf("write to the process that reads what the guest says: %w", ttrpc.ErrClosed)
	}
	r.fail(err)
	r.conn.Close()
	return r.failure()
}

// read takes answers until the connection ends.
func (r *remote) read() {
	for {
		err := r.readAnswer()
		if err == nil {
			continue
		}
		if errors.Is(err, plain.ErrFormat) {
			err = fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		r.fail(err)
		r.conn.Close()
		return
	}
}

// readAnswer takes one. What the process says is not trusted.
func (r *remote) readAnswer() error {
	var raw [plain.HeadSize]byte
	if _, err := io.ReadFull(r.conn, raw[:]); err != nil {
		return errReaderGone
	}
	head, err := plain.DecodeAnswer(&raw)
	if err != nil {
		return err
	}
	r.mu.Lock()
	q := r.pending[head.ID]
	last := r.last
	r.mu.Unlock()
	if head.ID > last || q != nil && head.Status == 0 && head.Length > r.all[q.method].MaxLength() {
		return fmt.Errorf("answer %d of %d bytes: %w", head.ID, head.Length, plain.ErrFormat)
	}
	if head.ID != 0 && q == nil { // given up
		_, err := io.CopyN(io.Discard, r.conn, int64(head.Length))
		return err
	}
	values := make([]byte, head.Length)
	if _, err := io.ReadFull(r.conn, values); err != nil {
		return errReaderGone
	}
	if head.ID == 0 {
		return ended(head.Status, string(values))
	}
	// Whoever passes an error on encodes it as a text.
	if head.Status != 0 && !utf8.Valid(values) {
		return fmt.Errorf("the words of error %d: %w", head.Status, plain.ErrFormat)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[head.ID] == nil { // given up meanwhile
		return nil
	}
	delete(r.pending, head.ID)
	q.status, q.values = head.Status, values
	close(q.answered)
	return nil
}

// ended is the error of a connection that the process has ended.
func ended(why uint32, text string) error {
	switch why {
	case plain.EndMalformed:
		return fmt.Errorf("%w: %q", ErrMalformed, text)
	case plain.EndStalled:
		return fmt.Errorf("%w: %q", ErrStalled, text)
	default:
		return fmt.Errorf("%w: %q", ttrpc.ErrClosed, text)
	}
}
