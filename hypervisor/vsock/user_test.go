package vsock

import (
	"errors"
	"net"
	"strings"
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
		control: conn, pending: make(map[uint64]chan<- control.Message),
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
	u.sending.Lock()
	closed := make(chan struct{}, 2)
	go func() { _ = l.Close(); closed <- struct{}{} }()
	<-l.done
	go func() { _ = l.Close(); closed <- struct{}{} }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("both closers tell the process")
	}
	u.sending.Unlock()
	<-closed
	if u.listeners[1] != nil {
		t.Error("the port is not free")
	}
}
