package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/websocket"
)

// protocol is what a message's first byte means: the number of a channel.
const protocol = "v4.channel.k8s.io"

// The channels of an exec or attach.
const (
	stdinChannel = iota
	stdoutChannel
	stderrChannel
	statusChannel
	resizeChannel
)

// Session is a running exec or attach. The protocol cannot end the standard
// input without ending the session.
type Session struct {
	conn *websocket.Conn
	// Stdout and Stderr are what the process writes; they end with it.
	Stdout, Stderr io.Reader

	status []byte
	done   chan struct{} // closed when the manager has said its last
}

// Open starts what a URL of the manager stands for, the answer to Exec or
// Attach. The session ends with ctx at the latest.
func Open(ctx context.Context, url string) (*Session, error) {
	conn, err := dial(ctx, url)
	if err != nil {
		return nil, err
	}
	stdout, stderr := newBuffer(), newBuffer()
	s := &Session{conn: conn, Stdout: stdout, Stderr: stderr, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		defer close(s.done)
		defer stop()
		err := eachMessage(conn, func(channel byte, data []byte) {
			switch channel {
			case stdoutChannel:
				stdout.add(data)
			case stderrChannel:
				stderr.add(data)
			case statusChannel:
				s.status = append(s.status, data...)
			}
		})
		stdout.end(err)
		stderr.end(err)
	}()
	return s, nil
}

// Write writes to the process's standard input.
func (s *Session) Write(data []byte) (int, error) {
	if err := send(s.conn, stdinChannel, data); err != nil {
		return 0, err
	}
	return len(data), nil
}

// Resize sets the size of the process's terminal.
func (s *Session) Resize(columns, rows int) error {
	return send(s.conn, resizeChannel, fmt.Appendf(nil, `{"Width":%d,"Height":%d}`, columns, rows))
}

// Wait waits for the end of the session and returns the process's exit code.
func (s *Session) Wait() (int, error) {
	<-s.done
	return exitCode(s.status)
}

// Close ends the session, as a client that goes away does.
func (s *Session) Close() error {
	err := s.conn.Close()
	<-s.done
	if err != nil {
		return fmt.Errorf("close the session: %w", err)
	}
	return nil
}

// exitCode reads the status that ends a session.
func exitCode(text []byte) (int, error) {
	var status struct {
		Status, Reason, Message string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(text, &status); err != nil {
		return 0, fmt.Errorf("the session ended with the status %q: %w", text, err)
	}
	if status.Status == "Success" {
		return 0, nil
	}
	if status.Reason == "NonZeroExitCode" {
		for _, cause := range status.Details.Causes {
			if cause.Reason == "ExitCode" {
				return strconv.Atoi(cause.Message)
			}
		}
	}
	return 0, fmt.Errorf("the session failed: %s", status.Message)
}

// Forward is a connection to a port of a pod. The protocol cannot end one
// direction alone.
type Forward struct {
	io.Reader
	conn *websocket.Conn
	done chan struct{}
}

// OpenForward connects to the port of a pod that a URL stands for: the manager's
// answer to PortForward with the port as its query's "port". That somebody listens
// there shows only in what can be read. The connection ends with ctx at the latest.
func OpenForward(ctx context.Context, url string) (*Forward, error) {
	conn, err := dial(ctx, url)
	if err != nil {
		return nil, err
	}
	data := newBuffer()
	f := &Forward{Reader: data, conn: conn, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		defer close(f.done)
		defer stop()
		greeted := map[byte]bool{}
		err := eachMessage(conn, func(channel byte, message []byte) {
			switch {
			case !greeted[channel]: // the first message repeats the port
				greeted[channel] = true
			case channel == 0:
				data.add(message)
			default:
				data.end(errors.New(string(message)))
			}
		})
		data.end(err)
	}()
	return f, nil
}

// Write sends to the port.
func (f *Forward) Write(data []byte) (int, error) {
	if err := send(f.conn, 0, data); err != nil {
		return 0, err
	}
	return len(data), nil
}

// Close ends the connection.
func (f *Forward) Close() error {
	err := f.conn.Close()
	<-f.done
	if err != nil {
		return fmt.Errorf("close the forwarded connection: %w", err)
	}
	return nil
}

func dial(ctx context.Context, url string) (*websocket.Conn, error) {
	location, ok := strings.CutPrefix(url, "http://")
	if !ok {
		return nil, fmt.Errorf("the manager streams by %q, which is not HTTP", url)
	}
	config, err := websocket.NewConfig("ws://"+location, "http://localhost/")
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	config.Protocol = []string{protocol}
	conn, err := config.DialContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	return conn, nil
}

func send(conn *websocket.Conn, channel byte, data []byte) error {
	if err := websocket.Message.Send(conn, append([]byte{channel}, data...)); err != nil {
		return fmt.Errorf("send to channel %d: %w", channel, err)
	}
	return nil
}

// eachMessage hands over each message until the other side ends them.
func eachMessage(conn *websocket.Conn, use func(channel byte, data []byte)) error {
	for {
		var message []byte
		err := websocket.Message.Receive(conn, &message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if len(message) > 0 {
			use(message[0], message[1:])
		}
	}
}

// buffer keeps what has come and nobody has read yet, so that a stream that
// nobody reads does not hold up another one.
type buffer struct {
	mu      sync.Mutex
	changed *sync.Cond
	data    []byte
	ended   error // nil before the end, io.EOF or a failure afterwards
}

func newBuffer() *buffer {
	b := &buffer{}
	b.changed = sync.NewCond(&b.mu)
	return b
}

func (b *buffer) add(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, data...)
	b.changed.Broadcast()
}

// end lets readers end, with a failure if there was one. The first call counts.
func (b *buffer) end(failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = io.EOF
		if failure != nil {
			b.ended = failure
		}
	}
	b.changed.Broadcast()
}

// Read waits for data or the end.
func (b *buffer) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.data) == 0 {
		if b.ended != nil {
			return 0, b.ended
		}
		b.changed.Wait()
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}
