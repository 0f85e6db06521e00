// Package reader is the process that reads what a guest's agent says, for a pod's
// owner that has privileges to lose. It has the agent's connection, which the owner has
// made, and the owner's socket, and needs nothing else of the host.
//
// It speaks ttrpc with the guest and package plain with the owner. Protocol buffers are
// read by hand, value by value: the process is to be small. What no agent sends ends the
// connection with the guest.
package reader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/agent/plain"
)

// Of ttrpc's wire format: each message has a header of ten bytes, its length
// and its stream in four each, its type and flags.
const (
	frameHeader   = 10
	maxFrame      = 4 << 20
	frameRequest  = 1
	frameResponse = 2
)

// maxWords bounds what a Response has besides its answer: an error's words and details.
const maxWords = 256 << 10

// service is the agent's, in its protocol.
const service = "kata.guest.v1.Agent"

var (
	errMalformed = errors.New("the guest sent something else than ttrpc answers")
	errStalled   = errors.New("the guest does not take what it is sent")
	errHandover  = errors.New("want the agent's connection first")
)

// Role is the name by which a program's devices.Run calls Run.
const Role = "reader"

// Run is Serve for a guest of this host.
func Run(owner *net.UnixConn, log *slog.Logger) error { return Serve(owner, plain.Patience, log) }

// connection is one with the agent.
type connection struct {
	owner    *net.UnixConn
	guest    *os.File
	methods  []plain.Method
	patience time.Duration // of a write to the guest

	mu      sync.Mutex     // guards the fields below
	pending map[uint32]int // the methods of requests that wait for their answers
	last    uint32         // ID of the last request
	stalled error
}

// Serve waits for the agent's connection, and passes requests and answers on until the
// owner hangs up. patience is how long the guest may take for a part of a request.
func Serve(owner *net.UnixConn, patience time.Duration, log *slog.Logger) error {
	defer owner.Close()
	guest, err := receive(owner)
	if errors.Is(err, io.EOF) {
		return nil // nobody has needed it
	}
	if err != nil {
		return fmt.Errorf("take the agent's connection: %w", err)
	}
	c := &connection{owner: owner, guest: guest, methods: plain.Methods(), patience: patience, pending: make(map[uint32]int)}
	defer guest.Close()
	asking := make(chan error, 1)
	go func() {
		err := c.ask()
		c.stop(err)
		_, _ = io.Copy(io.Discard, owner) // which ends when the owner has heard of the end
		asking <- err
	}()
	err = c.answer()
	if tellErr := c.send(c.end(err)); tellErr != nil {
		log.LogAttrs(context.Background(), slog.LevelDebug, "tell the owner of the end", slog.Any("error", tellErr))
	}
	guest.Close()
	err = <-asking
	if errors.Is(err, plain.ErrFormat) {
		return err
	}
	return nil
}

// receive takes the agent's connection.
func receive(owner *net.UnixConn) (*os.File, error) {
	var first [1]byte
	rights := make([]byte, unix.CmsgSpace(4))
	n, rightsLen, _, _, err := owner.ReadMsgUnix(first[:], rights)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
	if err != nil || len(messages) != 1 || first[0] != plain.Handover {
		return nil, errors.Join(errHandover, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errHandover, err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "connection with the agent"), nil
}

// ask passes the owner's requests on until it hangs up, or the guest takes no more.
func (c *connection) ask() error {
	buffer := make([]byte, 32<<10)
	for {
		var head [plain.HeadSize]byte
		if _, err := io.ReadFull(c.owner, head[:]); err != nil {
			return err
		}
		request, err := plain.DecodeRequest(&head)
		if err != nil {
			return err
		}
		if request.Method == plain.Cancel {
			c.mu.Lock()
			delete(c.pending, request.ID)
			c.mu.Unlock()
			continue
		}
		if request.Method >= len(c.methods) {
			return fmt.Errorf("method %d: %w", request.Method, plain.ErrFormat)
		}
		c.mu.Lock()
		c.pending[request.ID], c.last = request.Method, request.ID
		c.mu.Unlock()
		if err := c.write(begin(request, c.methods[request.Method].Name)); err != nil {
			return err
		}
		for left := request.Length; left > 0; {
			n, err := c.owner.Read(buffer[:min(left, len(buffer))])
			if err != nil {
				return err
			}
			if err := c.write(buffer[:n]); err != nil {
				return err
			}
			left -= n
		}
	}
}

// begin returns the bytes of a request's frame up to the message, which is its last field.
func begin(r plain.Request, method string) []byte {
	body := appendText(appendText(nil, 1, service), 2, method)
	if r.Timeout > 0 {
		body = binary.AppendUvarint(appendTag(body, 4, wireVarint), uint64(r.Timeout))
	}
	body = binary.AppendUvarint(appendTag(body, 3, wireBytes), uint64(r.Length))
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)+r.Length))
	frame = binary.BigEndian.AppendUint32(frame, stream(r.ID))
	return append(append(frame, frameRequest, 0), body...)
}

// stream is the number of a request's: a client's are odd.
func stream(id uint32) uint32 { return 2*id - 1 }

// write writes to the guest. A failure is the end: what the guest has is a part of a
// message.
func (c *connection) write(p []byte) error {
	if err := c.guest.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return fmt.Errorf("bound the writing: %w", err)
	}
	n, err := c.guest.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %d bytes of %d within %v", errStalled, n, len(p), c.patience)
	}
	return err
}

// stop ends the reading of answers, for what asking has ended with.
func (c *connection) stop(err error) {
	c.mu.Lock()
	c.stalled = err
	c.mu.Unlock()
	_ = c.guest.SetReadDeadline(time.Unix(1, 0)) // it may have ended
}

// answer passes the guest's answers on until one cannot be any, or the guest hangs up.
func (c *connection) answer() error {
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(c.guest, header[:]); err != nil {
			return err
		}
		length, number := binary.BigEndian.Uint32(header[:]), binary.BigEndian.Uint32(header[4:])
		c.mu.Lock()
		id := number/2 + 1
		method, waiting := c.pending[id]
		known := number%2 == 1 && id <= c.last
		delete(c.pending, id)
		c.mu.Unlock()
		if length > maxFrame || header[8] != frameResponse || !known {
			return fmt.Errorf("%w: a message of %d bytes, type %d, on stream %d", errMalformed, length, header[8], number)
		}
		if !waiting { // any more
			if _, err := io.CopyN(io.Discard, c.guest, int64(length)); err != nil {
				return err
			}
			continue
		}
		if most := c.methods[method].Bytes + maxWords; int(length) > most {
			return fmt.Errorf("%w: an answer of %d bytes to %s, which has %d at most", errMalformed, length, c.methods[method].Name, most)
		}
		response := make([]byte, length)
		if _, err := io.ReadFull(c.guest, response); err != nil {
			return err
		}
		head, body, err := translate(c.methods[method], response)
		if err != nil {
			return fmt.Errorf("%w: %w", errMalformed, err)
		}
		head.ID = id
		if err := c.send(head, body); err != nil {
			return err
		}
	}
}

// translate makes the plain answer of a Response.
func translate(m plain.Method, response []byte) (plain.Answer, []byte, error) {
	var status, content []byte
	failed := false
	err := each(response, func(f field) error {
		switch {
		case f.number == 1 && f.kind == wireBytes:
			status, failed = f.content, true
		case f.number == 2 && f.kind == wireBytes:
			content = f.content
		}
		return nil
	})
	if err != nil {
		return plain.Answer{}, nil, err
	}
	if failed {
		code, text, err := readStatus(status)
		if err != nil || code != 0 {
			return plain.Answer{Status: code, Length: len(text)}, text, err
		}
	}
	values, err := Encode(m, content)
	return plain.Answer{Length: len(values)}, values, err
}

// unknown is the code of an error that has none of grpc's, of which maxCode is the
// highest.
const (
	unknown = 2
	maxCode = 16
)

// readStatus reads the code and the words of an error.
func readStatus(status []byte) (code uint32, text []byte, err error) {
	err = each(status, func(f field) error {
		switch {
		case f.number == 1 && f.kind == wireVarint:
			if code = uint32(f.value); code > maxCode {
				code = unknown
			}
		case f.number == 2 && f.kind == wireBytes:
			text = f.content
		}
		return nil
	})
	if err == nil && !utf8.Valid(text) {
		err = errText
	}
	return code, cutText(text), err
}

// cutText returns as much of a text as one of an error may have, without a part of a rune.
func cutText(text []byte) []byte {
	if len(text) <= plain.MaxText {
		return text
	}
	end := plain.MaxText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// end says why the connection has ended.
func (c *connection) end(err error) (plain.Answer, []byte) {
	c.mu.Lock()
	if c.stalled != nil {
		err = c.stalled
	}
	c.mu.Unlock()
	head := plain.Answer{Status: plain.EndClosed}
	switch {
	case errors.Is(err, errMalformed):
		head.Status = plain.EndMalformed
	case errors.Is(err, errStalled):
		head.Status = plain.EndStalled
	}
	// The owner knows what each of the two means.
	said := strings.TrimPrefix(strings.TrimPrefix(err.Error(), errMalformed.Error()+": "), errStalled.Error()+": ")
	text := cutText([]byte(said))
	head.Length = len(text)
	return head, text
}

// send tells the owner.
func (c *connection) send(head plain.Answer, body []byte) error {
	buffers := net.Buffers{head.Encode(), body}
	_, err := buffers.WriteTo(c.owner)
	return err
}
