package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"kata-runtime/virtcontainers/agent/plain"
)

// Of ttrpc's wire format: each message has a header of ten bytes, its length
// and its stream in four each, its type and flags.
const (
	frameHeader   = 10
	maxFrame      = 4 << 20 // ttrpc's own bound on a message
	frameResponse = 2
	frameData     = 3
)

// ErrMalformed says that the guest sent what no agent sends. It ends the
// connection.
var ErrMalformed = errors.New("the guest sent something else than ttrpc answers")

// ErrStalled says that the guest did not take what it was sent. It ends the
// connection.
var ErrStalled = errors.New("the guest does not take what it is sent")

// writeTimeout bounds how long the guest may take for a part of a message.
const writeTimeout = plain.Patience

// checkedConn is a connection that fails at the first message that cannot be an
// agent's. ttrpc itself skips such messages, up to four gigabytes at a time,
// and goes on to wait for the answer.
//
// It also ends when the guest takes no bytes. ttrpc writes a request before it
// looks at the call's context, and lets all other calls wait meanwhile: without
// an end of its own, such a write would keep every call for ever.
type checkedConn struct {
	net.Conn
	patience time.Duration // of a write, and of a call whose context has ended

	// What follows belongs to the one reader.
	header   []byte // read so far of a header
	payload  int    // bytes to come until the next header
	response response

	mu     sync.Mutex // guards failed
	failed error
}

// failure is the ErrMalformed or ErrStalled that ended the connection, or nil.
func (c *checkedConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// Read implements net.Conn.
func (c *checkedConn) Read(p []byte) (int, error) {
	if err := c.failure(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if failed := c.check(p[:n]); failed != nil {
		c.fail(failed)
		return 0, failed
	}
	if err != nil && c.failure() != nil {
		err = c.failure() // rather than that Write has closed it
	}
	return n, err
}

// Write implements net.Conn. A failure ends the connection: what the guest has
// is a part of a message, after which it understands no other.
func (c *checkedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		c.Close()
		return 0, fmt.Errorf("bound the writing: %w", err)
	}
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.fail(fmt.Errorf("%w: %d bytes of %d within %v", ErrStalled, n, len(p), c.patience))
	}
	c.Close()
	if failed := c.failure(); failed != nil {
		err = failed
	}
	return n, err
}

// bound is a ttrpc.UnaryClientInterceptor. A call returns with its context once
// its request is written. One that does not is kept by its own request or by
// those before it, each of which a guest may take slowly enough. An answer that cannot
// be one ends the connection, before it is decoded.
func (c *checkedConn) bound(ctx context.Context, request *ttrpc.Request, response *ttrpc.Response,
	info *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker,
) error {
	returned := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(c.patience)
		defer timer.Stop()
		select {
		case <-returned:
		case <-timer.C:
			c.fail(fmt.Errorf("%w: a call is kept for %v after its end", ErrStalled, c.patience))
			c.Close()
		}
	})
	defer stop()
	defer close(returned)
	err := invoke(ctx, request, response)
	if err == nil {
		if err = check(info.FullMethod, response); err != nil {
			c.fail(err)
			c.Close()
			return err
		}
		if tooLate(ctx, codes.Code(response.GetStatus().GetCode())) {
			<-ctx.Done()
			err = ctx.Err()
		}
	}
	if err != nil && errors.Is(err, ctx.Err()) { // which says less than the cause
		return context.Cause(ctx)
	}
	return err
}

// aboutLate is how early the agent may find that a call has taken too long: it is told how
// much time there is, and measures it with its own clock.
const aboutLate = time.Second

// tooLate tells whether the code of the agent's answer is that the time is up which ctx is
// about to end for, with a cause that says more.
func tooLate(ctx context.Context, code codes.Code) bool {
	deadline, ok := ctx.Deadline()
	return ok && code == codes.DeadlineExceeded && time.Until(deadline) < aboutLate
}

// fail notes what ends the connection; the first counts.
func (c *checkedConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		c.failed = err
	}
}

// check follows the messages in what was read.
func (c *checkedConn) check(data []byte) error {
	for len(data) > 0 {
		if c.payload > 0 {
			n := min(c.payload, len(data))
			if err := c.response.follow(data[:n]); err != nil {
				return fmt.Errorf("%w: %w", ErrMalformed, err)
			}
			c.payload -= n
			data = data[n:]
			continue
		}
		n := min(frameHeader-len(c.header), len(data))
		c.header = append(c.header, data[:n]...)
		data = data[n:]
		if len(c.header) < frameHeader {
			return nil
		}
		length, stream, kind := binary.BigEndian.Uint32(c.header), binary.BigEndian.Uint32(c.header[4:]), c.header[8]
		if length > maxFrame || stream%2 == 0 || kind != frameResponse && kind != frameData {
			return fmt.Errorf("%w: a message of %d bytes, type %d, on stream %d", ErrMalformed, length, kind, stream)
		}
		c.header, c.payload, c.response = c.header[:0], int(length), response{}
	}
	return nil
}

const (
	// statusField is that of ttrpc's Response which has an error, a Status; its fields are
	// followed too.
	statusField = 1
	// contentField has, in a Response, the answer, whose content check counts before it
	// is decoded, and in a Status the error's words, which take no more memory than here.
	contentField = 2
	// maxWords bounds all else of a Response, which ttrpc decodes before anybody is
	// asked: above all an error's details, of which each takes two bytes here and a
	// hundred when it is decoded.
	maxWords = 256 << 10
)

// response follows the fields of an encoded Response as its bytes arrive.
type response struct {
	words int    // bytes that are not in a contentField
	field uint64 // the number of the one that is read
	skip  int    // bytes to come of its content
	stage int
	value uint64 // of a varint, so far
	shift uint
}

// What a varint is.
const (
	stageTag = iota
	stageLength
	stageValue
)

// follow returns an error as soon as there is too much besides the answer.
func (r *response) follow(data []byte) error {
	for len(data) > 0 && r.words <= maxWords {
		if r.skip > 0 {
			n := min(r.skip, len(data))
			r.skip -= n
			data = data[n:]
			if r.field != contentField {
				r.words += n
			}
			continue
		}
		b := data[0]
		data = data[1:]
		r.words++
		if r.shift >= 64 {
			return errors.New("a number of more than 64 bits")
		}
		r.value |= uint64(b&0x7f) << r.shift
		if r.shift += 7; b&0x80 != 0 {
			continue
		}
		value := r.value
		r.value, r.shift = 0, 0
		if err := r.number(value); err != nil {
			return err
		}
	}
	if r.words > maxWords {
		return fmt.Errorf("a message with more than %d bytes besides its answer or its words", maxWords)
	}
	return nil
}

// number takes the next number of the message.
func (r *response) number(value uint64) error {
	switch r.stage {
	case stageTag:
		r.field = 0
		switch kind := protowire.Type(value & 7); kind {
		case protowire.VarintType:
			r.stage = stageValue
		case protowire.Fixed64Type:
			r.skip = 8
		case protowire.Fixed32Type:
			r.skip = 4
		case protowire.BytesType:
			r.stage, r.field = stageLength, value>>3
		default:
			return fmt.Errorf("a field of the type %d", kind)
		}
	case stageLength:
		if value > maxFrame {
			return fmt.Errorf("a field of %d bytes", value)
		}
		r.stage = stageTag
		// A Status is not skipped: its fields are the next ones. Where it ends does not
		// matter, since ttrpc decodes nothing behind a field that goes beyond that.
		if r.field != statusField {
			r.skip = int(value)
		}
	default:
		r.stage = stageTag
	}
	return nil
}
