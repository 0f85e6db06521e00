package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/qmp"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, ` +
	`"package": "Debian 1:7.2"}, "capabilities": ["oob"]}}`

// peer is QEMU's end of a connection in a test.
type peer struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Reader
}

type command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

func (p *peer) say(format string, arguments ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.conn, format+"\r\n", arguments...); err != nil {
		p.t.Errorf("peer: %v", err)
	}
}

func (p *peer) hear() command {
	p.t.Helper()
	line, err := p.in.ReadBytes('\n')
	if err != nil {
		p.t.Errorf("peer: %v", err)
	}
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		p.t.Errorf("peer: %q: %v", line, err)
	}
	return c
}

// pair returns a connected pair of unix sockets.
func pair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return conns[0], conns[1]
}

// connect returns a client past its handshake, and its peer.
func connect(t *testing.T, onEvent func(qmp.Event)) (*qmp.Client, *peer) {
	t.Helper()
	ours, theirs := pair(t)
	p := &peer{t: t, conn: theirs, in: bufio.NewReader(theirs)}
	shaken := make(chan struct{})
	go func() {
		defer close(shaken)
		p.say(greeting)
		if c := p.hear(); c.Execute != "qmp_capabilities" {
			t.Errorf("first command is %q", c.Execute)
		} else {
			p.say(`{"return": {}, "id": %d}`, c.ID)
		}
	}()
	client, err := qmp.New(t.Context(), ours, onEvent)
	<-shaken
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, p
}

func TestExecute(t *testing.T) {
	client, p := connect(t, nil)
	if v := client.Version(); v.String() != "7.2.22" || v.Package != "Debian 1:7.2" {
		t.Errorf("version %+v", v)
	}
	go func() {
		c := p.hear()
		if c.Execute != "query-status" || string(c.Arguments) != `{"deep":true}` {
			t.Errorf("heard %+v", c)
		}
		p.say(`{"return": {"status": "running"}, "id": %d}`, c.ID)
	}()
	var result struct{ Status string }
	err := client.Execute(t.Context(), "query-status", map[string]bool{"deep": true}, &result)
	if err != nil || result.Status != "running" {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestErrorHasClassAndText(t *testing.T) {
	client, p := connect(t, nil)
	go func() {
		c := p.hear()
		p.say(`{"id": %d, "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}`, c.ID)
	}()
	err := client.Execute(t.Context(), "device_del", nil, nil)
	var refusal *qmp.Error
	if !errors.As(err, &refusal) || refusal.Class != "DeviceNotFound" || refusal.Command != "device_del" ||
		!strings.Contains(err.Error(), "'x' not found") {
		t.Errorf("got %v", err)
	}
	if client.Err() != nil {
		t.Error("a refusal ended the connection")
	}
}

func TestLateAnswerIsNotTheNextOnes(t *testing.T) {
	client, p := connect(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan command, 1)
	go func() {
		heard <- p.hear()
		cancel()
	}()
	if err := client.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	go func() {
		next := p.hear()
		p.say(`{"return": {"of": "slow"}, "id": %d}`, (<-heard).ID)
		p.say(`{"return": {"of": "next"}, "id": %d}`, next.ID)
	}()
	var result struct{ Of string }
	if err := client.Execute(t.Context(), "next", nil, &result); err != nil || result.Of != "next" {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestEventsComeInOrder(t *testing.T) {
	events := make(chan qmp.Event, 3)
	client, p := connect(t, func(e qmp.Event) { events <- e })
	p.say(`{"timestamp": {"seconds": 7, "microseconds": 5}, "event": "STOP"}`)
	p.say(`{"event": "DEVICE_DELETED", "data": {"device": "d0"}}`)
	p.conn.Close()
	<-client.Done()
	close(events)
	stop, deleted := <-events, <-events
	if stop.Name != "STOP" || stop.Time.UnixMicro() != 7_000_005 {
		t.Errorf("got %+v", stop)
	}
	var data struct{ Device string }
	if err := deleted.Decode(&data); err != nil || data.Device != "d0" {
		t.Errorf("got %+v, %v", data, err)
	}
	if err := client.Execute(t.Context(), "cont", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestConcurrentCallsOutOfOrder(t *testing.T) {
	const calls = 50
	client, p := connect(t, nil)
	go func() {
		var held []command
		for range calls {
			held = append(held, p.hear())
		}
		for i := range held {
			c := held[len(held)-1-i]
			p.say(`{"return": %s, "id": %d}`, c.Arguments, c.ID)
		}
	}()
	var group sync.WaitGroup
	for i := range calls {
		group.Go(func() {
			var got struct{ N int }
			err := client.Execute(t.Context(), "echo", map[string]int{"n": i}, &got)
			if err != nil || got.N != i {
				t.Errorf("call %d: %+v, %v", i, got, err)
			}
		})
	}
	group.Wait()
}

func TestExecuteWithFile(t *testing.T) {
	client, p := connect(t, nil)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make(chan error, 1)
	go func() { got <- p.takeFile(file) }()
	if err := client.ExecuteWithFile(t.Context(), "getfd", map[string]string{"fdname": "x"}, nil, file); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := client.ExecuteWithFile(t.Context(), "getfd", nil, nil, nil); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("no file: %v", err)
	}
}

// takeFile answers a command that must bring want beside it.
func (p *peer) takeFile(want *os.File) error {
	text, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, controlLen, _, _, err := p.conn.ReadMsgUnix(text, control)
	if err != nil {
		return err
	}
	var c command
	if err := json.Unmarshal(text[:n], &c); err != nil {
		return err
	}
	defer p.say(`{"return": {}, "id": %d}`, c.ID)
	messages, err := unix.ParseSocketControlMessage(control[:controlLen])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	file := os.NewFile(uintptr(fds[0]), "received")
	defer file.Close()
	a, errA := file.Stat()
	b, errB := want.Stat()
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		return fmt.Errorf("another file came: %w", errors.Join(errA, errB))
	}
	return nil
}

func TestBrokenPeers(t *testing.T) {
	for name, talk := range map[string]func(p *peer, id uint64){
		"hangs up":          func(*peer, uint64) {},
		"no JSON":           func(p *peer, _ uint64) { p.say("hello") },
		"no message":        func(p *peer, _ uint64) { p.say("{}") },
		"answer without id": func(p *peer, _ uint64) { p.say(`{"return": {}}`) },
		"error without id":  func(p *peer, _ uint64) { p.say(`{"error": {"class": "GenericError", "desc": "JSON"}}`) },
		"second greeting":   func(p *peer, _ uint64) { p.say(greeting) },
		"endless line": func(p *peer, _ uint64) {
			chunk := []byte(strings.Repeat("x", 64<<10))
			for {
				if _, err := p.conn.Write(chunk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, p := connect(t, nil)
			go func() {
				talk(p, p.hear().ID)
				p.conn.Close()
			}()
			if err := client.Execute(t.Context(), "x", nil, nil); !errors.Is(err, qmp.ErrClosed) {
				t.Errorf("got %v", err)
			}
			<-client.Done()
		})
	}
}

func TestHandshakeErrors(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":      "",
		"no greeting":  `{"event": "STOP"}` + "\n",
		"not QMP":      "SSH-2.0\n",
		"refused mode": greeting + "\n" + `{"id": 1, "error": {"class": "GenericError", "desc": "no"}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			go func() {
				_, _ = io.WriteString(theirs, text)
				_ = theirs.CloseWrite()
			}()
			if _, err := qmp.New(t.Context(), ours, nil); err == nil {
				t.Error("no error")
			}
			if _, err := ours.Write(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection was left open: %v", err)
			}
		})
	}
}

func TestSilentPeerIsBoundedByContext(t *testing.T) {
	ours, _ := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := qmp.New(ctx, ours, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestUnreadCommandsAreBoundedByContext fills the socket of a peer that stopped
// reading.
func TestUnreadCommandsAreBoundedByContext(t *testing.T) {
	client, _ := connect(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	big := strings.Repeat("x", 1<<20)
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- client.Execute(ctx, "big", map[string]string{"x": big}, nil) }()
	}
	cancel()
	for range 2 {
		if err := <-results; !errors.Is(err, context.Canceled) && !errors.Is(err, qmp.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}
