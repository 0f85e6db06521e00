package standin

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/supervisor"
)

// Who knows a process may signal it, though its streams have not come yet.
func TestSignalBeforeTheStreams(t *testing.T) {
	ours, file, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := channel.FromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	s := &standIn{channel: ours, settings: settings{Empty: true}}
	ended := make(chan int)
	go func() { ended <- s.serve() }()
	if err := theirs.Send(supervisor.ToStandIn{}); err != nil {
		t.Fatal(err)
	}
	for !s.called.Load() {
		runtime.Gosched()
	}
	s.forward(unix.SIGTERM)
	var got supervisor.FromStandIn
	if _, err := theirs.Receive(&got); err != nil || got.Signal != int(unix.SIGTERM) {
		t.Errorf("it says %+v, %v", got, err)
	}
	theirs.Close()
	<-ended
}
