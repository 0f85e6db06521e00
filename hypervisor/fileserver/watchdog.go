package fileserver

import (
	"sync/atomic"
	"time"
)

const (
	// watchInterval is how long a request may keep those behind it waiting.
	watchInterval = time.Millisecond
	// watchIdle is after how many intervals without a request the watchdog sleeps.
	watchIdle = 8
)

// watchdog finds leaders that are stuck. It sleeps while nothing is to be done.
type watchdog struct {
	asleep atomic.Bool
	wakeUp chan struct{}
}

// stir wakes the watchdog: a request has come.
func (w *watchdog) stir() {
	if w.asleep.Load() && w.asleep.CompareAndSwap(true, false) {
		select {
		case w.wakeUp <- struct{}{}:
		default:
		}
	}
}

// watch lets another worker lead where the leader is at the same request as an
// interval ago.
func (d *device) watch() {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		ticker.Stop()
		select {
		case <-d.wakeUp:
		case <-d.ended:
			return
		}
		ticker.Reset(watchInterval)
		for idle := 0; idle < watchIdle; {
			select {
			case <-ticker.C:
			case <-d.ended:
				return
			}
			idle++
			for _, q := range d.queues {
				if q.relieve() {
					idle = 0
				}
			}
		}
		d.asleep.Store(true)
	}
}
