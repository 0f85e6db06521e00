package virtcontainers_test

import (
	"io"
	"sync"
	"testing"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

// createWatched creates a container and watches it twice.
func createWatched(t *testing.T, guest *sandboxtest.Guest) (c *virtcontainers.Container, events [2]<-chan struct{}, stop func()) {
	t.Helper()
	c, err := startSandbox(t, guest).CreateContainer(t.Context(), virtcontainers.ContainerOptions{
		ID: "c1", IO: virtcontainers.IO{Stdout: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var drained sync.WaitGroup
	drained.Go(func() { _, _ = io.Copy(io.Discard, c.Init().Streams.Stdout) })
	t.Cleanup(func() {
		c.Init().Streams.Close()
		drained.Wait()
	})
	events[0], stop = c.WatchOOM()
	events[1], _ = c.WatchOOM()
	return c, events, stop
}

func count(events <-chan struct{}) (n int) {
	for range events {
		n++
	}
	return n
}

func TestLackOfMemoryReachesEveryWatcher(t *testing.T) {
	guest := sandboxtest.NewGuest()
	c, events, stop := createWatched(t, guest)
	guest.OutOfMemory("another, which does not exist")
	guest.OutOfMemory("c1")
	for _, watcher := range events {
		<-watcher
	}
	stop()
	stop() // idempotent
	guest.OutOfMemory("c1")
	<-events[1]
	if _, more := <-events[0]; more {
		t.Error("an event after stop")
	}
	guest.SetOOMEvents(2) // both were told
	guest.Exit(sandboxtest.Init("c1"), 137)
	if n := count(events[1]); n != 0 {
		t.Errorf("%d more events until the end", n)
	}
	<-c.Init().Done()
	late, stopLate := c.WatchOOM()
	defer stopLate()
	if n := count(late); n != 0 {
		t.Errorf("%d events after the end", n)
	}
}

func TestTheEndMayOvertakeTheLackOfMemory(t *testing.T) {
	guest := sandboxtest.NewGuest()
	_, events, _ := createWatched(t, guest)
	guest.SetOOMEvents(1) // NextOOM has not answered yet
	guest.Exit(sandboxtest.Init("c1"), 137)
	for i, watcher := range events {
		if n := count(watcher); n != 1 {
			t.Errorf("watcher %d: %d events, want 1", i, n)
		}
	}
}

func TestAGuestThatFloodsIsBounded(t *testing.T) {
	guest := sandboxtest.NewGuest()
	_, events, _ := createWatched(t, guest)
	for range 1000 {
		guest.OutOfMemory("c1")
	}
	guest.SetOOMEvents(1 << 62)
	guest.Exit(sandboxtest.Init("c1"), 0)
	if n := count(events[0]); n == 0 || n > 100 {
		t.Errorf("%d events were kept", n)
	}
}

func TestThawedContainersAreWaitedFor(t *testing.T) {
	guest := sandboxtest.NewGuest()
	c, _, _ := createWatched(t, guest)
	if err := c.AwaitThaw(t.Context()); err != nil {
		t.Errorf("a container that is not paused: %v", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, thaw := range []func(){
		func() {
			if err := c.Resume(t.Context()); err != nil {
				t.Error(err)
			}
		},
		func() { guest.Exit(sandboxtest.Init("c1"), 1) },
	} {
		if err := c.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		thawed := make(chan error, 1)
		go func() { thawed <- c.AwaitThaw(t.Context()) }()
		select {
		case err := <-thawed:
			t.Fatalf("a paused container: %v", err)
		default:
		}
		thaw()
		if err := <-thawed; err != nil {
			t.Error(err)
		}
	}
}
