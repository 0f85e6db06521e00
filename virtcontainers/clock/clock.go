// Package clock tells when the host's real-time clock has jumped: it was set,
// or the host woke from a suspend. A guest's clock does not follow by itself.
package clock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Watch calls jumped after each discontinuous change of CLOCK_REALTIME, until
// ctx ends, and then returns nil. It waits for the kernel's word
// (TFD_TIMER_CANCEL_ON_SET, timerfd_create(2)) and does not poll.
func Watch(ctx context.Context, jumped func(context.Context)) error {
	timer, err := newTimer()
	if err != nil {
		return fmt.Errorf("watch the host's clock: %w", err)
	}
	defer timer.Close()
	stop := context.AfterFunc(ctx, func() { timer.Close() })
	defer stop()
	for {
		_, err := timer.Read(make([]byte, 8))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ECANCELED):
			// The timer itself goes on and reports the next jump.
			jumped(ctx)
		case err != nil:
			return fmt.Errorf("watch the host's clock: %w", err)
		}
	}
}

// newTimer makes a timer that never expires but is cancelled by every jump.
func newTimer() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32 << 8}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "clock timer"), nil
}
