package accept

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// script is a listener that fails as told, and then has a connection or waits for
// its end.
type script struct {
	errs   []error
	conn   net.Conn
	closed chan struct{}
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", err)}
	}
	if s.conn != nil {
		return s.conn, nil
	}
	<-s.closed
	return nil, net.ErrClosed
}

func (s *script) Close() error {
	close(s.closed)
	return nil
}

func (*script) Addr() net.Addr { return &net.UnixAddr{Name: "socket", Net: "unix"} }

func TestTransientErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := net.Pipe()
		defer one.Close()
		defer other.Close()
		s := &script{
			errs:   []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EPERM},
			conn:   one,
			closed: make(chan struct{}),
		}
		l := Patiently(s, slog.New(slog.DiscardHandler))
		began := time.Now()
		if conn, err := l.Accept(); err != nil || conn != one {
			t.Errorf("%v, %v", conn, err)
		}
		if took := time.Since(began); took < 100*time.Millisecond || took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestErrorThatStays(t *testing.T) {
	l := Patiently(&script{errs: []error{unix.EINVAL}}, slog.New(slog.DiscardHandler))
	if _, err := l.Accept(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v", err)
	}
}

// A listener that has ended with its VMM tells how that showed, which may look
// like a connection's failure.
func TestEndThatLooksTransient(t *testing.T) {
	closed := fmt.Errorf("%w: the VMM has ended: %w", net.ErrClosed, unix.ECONNRESET)
	s := &script{errs: []error{closed}, closed: make(chan struct{})}
	if _, err := Patiently(s, slog.New(slog.DiscardHandler)).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestCloseEndsTheWait(t *testing.T) {
	errs := make([]error, 1000)
	for i := range errs {
		errs[i] = unix.EMFILE
	}
	l := Patiently(&script{errs: errs, closed: make(chan struct{})}, slog.New(slog.DiscardHandler))
	result := make(chan error)
	go func() {
		_, err := l.Accept()
		result <- err
	}()
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestAtMost(t *testing.T) {
	for descriptors, want := range map[uint64]int{0: 1, 1024: 64, 1 << 20: 500, math.MaxUint64: 500} {
		if got := atMost(500, descriptors); got != want {
			t.Errorf("with %d descriptors %d, want %d", descriptors, got, want)
		}
	}
}
