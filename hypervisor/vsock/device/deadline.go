package device

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved. The zero value is never
// reached.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	reached chan struct{} // closed when it is; nil: no deadline
}

// set moves the deadline; the zero time removes it. Those who wait on a channel
// that they got before must be told to get another.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.reached = nil
	if t.IsZero() {
		return
	}
	reached := make(chan struct{})
	d.reached = reached
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(reached) })
		return
	}
	close(reached)
}

// wait returns a channel that is closed when the deadline is reached.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reached
}

// isReached says whether the deadline has passed.
func (d *deadline) isReached() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
