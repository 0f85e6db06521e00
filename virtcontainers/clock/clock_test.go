package clock_test

import (
	"context"
	"testing"

	"kata-runtime/virtcontainers/clock"
)

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- clock.Watch(ctx, func(context.Context) {}) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
