//go:build vm

package clock_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/clock"
)

// TestWatchHearsOfJumps sets the host's clock to what it is: the kernel counts
// that as a jump, and nobody else notices.
func TestWatchHearsOfJumps(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- clock.Watch(ctx, func(context.Context) { heard <- struct{}{} })
	}()
	for range 2 {
		waiting := true
		for waiting { // the watch may not have begun at the first one
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
				t.Fatal(err)
			}
			if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
				t.Fatal(err)
			}
			select {
			case <-heard:
				waiting = false
			case err := <-ended:
				t.Fatalf("the watch ended: %v", err)
			default:
			}
		}
	}
	cancel()
	for {
		select {
		case <-heard: // of a clock that was set once too often
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}
