package server

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// scripted is a listener that returns what it was given, and then net.ErrClosed.
type scripted struct {
	net.Listener
	results []any // error, or the CID of a peer
	closed  []uint32
}

func (s *scripted) Accept() (net.Conn, error) {
	if len(s.results) == 0 {
		return nil, net.ErrClosed
	}
	next := s.results[0]
	s.results = s.results[1:]
	if err, ok := next.(error); ok {
		return nil, err
	}
	return &peer{listener: s, cid: next.(uint32)}, nil
}

type peer struct {
	net.Conn
	listener *scripted
	cid      uint32
}

func (p *peer) RemoteAddr() net.Addr { return &vsock.Addr{ContextID: p.cid, Port: 7} }

func (p *peer) Close() error {
	p.listener.closed = append(p.listener.closed, p.cid)
	return nil
}

func TestOnlyTheHostIsAccepted(t *testing.T) {
	s := &scripted{results: []any{uint32(3), unix.ECONNRESET, uint32(1), protocol.HostCID}}
	l := &hostListener{Listener: s, log: slog.New(slog.DiscardHandler)}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if cid := conn.(*peer).cid; cid != protocol.HostCID {
		t.Fatalf("accepted CID %d", cid)
	}
	if len(s.closed) != 2 {
		t.Errorf("refused connections left open; closed %v", s.closed)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAListenerThatOnlyFailsEnds(t *testing.T) {
	s := &scripted{}
	for range 2 * maxAcceptErrors {
		s.results = append(s.results, unix.EBADF)
	}
	l := &hostListener{Listener: s, log: slog.New(slog.DiscardHandler)}
	if _, err := l.Accept(); !errors.Is(err, unix.EBADF) {
		t.Fatalf("error %v, want EBADF", err)
	}
}
