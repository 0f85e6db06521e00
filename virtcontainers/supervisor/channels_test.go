package supervisor

import (
	"log/slog"
	"testing"

	"kata-runtime/virtcontainers/channel"
)

// A command that was killed before its channel was taken leaves no pod without
// an owner.
func TestChannelOfACommandThatIsGone(t *testing.T) {
	conn, theirs, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	s := &server{
		log: slog.New(slog.DiscardHandler), done: make(chan struct{}),
		channels:   make(map[string]*commandChannel),
		containers: map[string]*container{"pod": newContainer(nil)},
	}
	s.serveCommand(conn)
	select {
	case <-s.done:
	default:
		t.Error("the pod goes on, which nobody has asked for")
	}
	if len(s.channels) != 0 {
		t.Errorf("%d channels are left", len(s.channels))
	}
}
