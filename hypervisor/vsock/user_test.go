package vsock

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kata-runtime/hypervisor/vsock/control"
)

// newUser returns a Host without a process, and what the process would have.
func newUser(t *testing.T) (*user, *net.UnixConn) {
	t.Helper()
	conn, file, err := control.Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := control.Conn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), theirs.Close() })
	return &user{
		control: conn, sending: make(chan struct{}, 1), patience: sendTimeout, pending: make(map[uint64]chan<- control.Message),
		conns: make(map[*userConn]struct{}), listeners: make(map[uint32]*userListener),
	}, theirs
}

// A request that could not be sent waits for no answer.
func TestUnsentRequest(t *testing.T) {
	u, theirs := newUser(t)
	_ = theirs.Close()
	if _, err := u.Dial(t.Context(), 1); err == nil {
		t.Error("connected without a process")
	}
	if n := len(u.pending); n != 0 {
		t.Errorf("%d requests wait for an answer", n)
	}
}

// A process that takes no requests any more has ended, whatever is known of it yet.
func TestRequestAfterTheEnd(t *testing.T) {
	u, theirs := newUser(t)
	u.reading.Go(u.read)
	l, err := u.listen(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.CloseRead(); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Dial(t.Context(), 1); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), errProcess.Error()) {
		t.Errorf("accept: %v", err)
	}
}

// Of those who close a listener at the same time, one frees the port: the other would
// free it of its next listener.
func TestClosersOfAListener(t *testing.T) {
	u, _ := newUser(t)
	l, err := u.listen(1)
	if err != nil {
		t.Fatal(err)
	}
	u.sending <- struct{}{}
	closed := make(chan struct{}, 2)
	go func() { _ = l.Close(); closed <- struct{}{} }()
	<-l.done
	go func() { _ = l.Close(); closed <- struct{}{} }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("both closers tell the process")
	}
	<-u.sending
	<-closed
	if u.listeners[1] != nil {
		t.Error("the port is not free")
	}
}

// A process that takes nothing keeps each caller no longer than one, and one whose
// context ends no longer than that.
func TestProcessThatTakesNothing(t *testing.T) {
	u, _ := newUser(t)
	u.patience = 50 * time.Millisecond
	for u.send(t.Context(), control.Message{Kind: control.Unlisten}, nil) == nil { // until there is no room
	}
	u.patience = sendTimeout
	late, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	begin := time.Now()
	if _, err := u.Dial(late, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > sendTimeout/2 {
		t.Errorf("dial until 100 ms: %v, after %v", err, time.Since(begin))
	}
	u.patience = 300 * time.Millisecond
	begin = time.Now()
	var callers sync.WaitGroup
	const count = 30
	for port := range uint32(count) {
		callers.Go(func() {
			if _, err := u.Listen(port); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("listen: %v", err)
			}
		})
	}
	callers.Wait()
	// Each tells of its failure, and closes its listener.
	if took := time.Since(begin); took > count*u.patience/2 {
		t.Errorf("%d callers took %v", count, took)
	}
	if len(u.pending) != 0 || len(u.listeners) != 0 {
		t.Errorf("%d requests, %d listeners are left", len(u.pending), len(u.listeners))
	}
}
