package loopback

import (
	"net"
	"testing"
)

// A connection that was given up goes no further, though its header has come by then: the
// limit knows nothing of it any more.
func TestGivenUpConnectionGoesNoFurther(t *testing.T) {
	l := &Loopback{life: t.Context(), connectionLimit: 2, greetingLimit: 1, open: map[net.Conn]struct{}{}}
	oldest, other := net.Pipe()
	defer other.Close()
	if !l.admit(oldest) || !l.admit(other) {
		t.Fatal("refused")
	}
	if l.greeted(oldest) {
		t.Error("the one that was given up goes on")
	}
	if !l.greeted(other) {
		t.Error("the one it was given up for does not go on")
	}
	l.leave(oldest)
	l.leave(other)
	if len(l.open) > 0 {
		t.Errorf("%d connections count", len(l.open))
	}
}
