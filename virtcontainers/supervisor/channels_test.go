package supervisor

import (
	"log/slog"
	"testing"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/pod"
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
	log := slog.New(slog.DiscardHandler)
	s := &server{log: log, pod: pod.New(pod.Options{Log: log}), channels: make(map[string]*commandChannel)}
	s.serveCommand(conn)
	select {
	case <-s.pod.Done():
	default:
		t.Error("the pod goes on, which nobody has asked for")
	}
	if len(s.channels) != 0 {
		t.Errorf("%d channels are left", len(s.channels))
	}
}
