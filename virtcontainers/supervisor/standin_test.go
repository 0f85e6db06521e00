package supervisor

import (
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
)

// A stand-in may be signalled as soon as it is there.
func TestSignalWhileEntering(t *testing.T) {
	ours, file, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := channel.FromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for _, message := range []FromStandIn{{Signal: int(unix.SIGTERM)}, {Entered: true}} {
		if err := theirs.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	s := newStandIn(ours, slog.New(slog.DiscardHandler))
	if err := s.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.early) != 1 || s.early[0].Signal != int(unix.SIGTERM) {
		t.Errorf("it keeps %+v", s.early)
	}
}
