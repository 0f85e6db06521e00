package fileserver

import (
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// watchInterval is about how long a request may keep those behind it waiting.
	watchInterval = 20 * time.Millisecond
	// watchIdle is after how many intervals without a request the watchdog sleeps.
	watchIdle = 2
	// quiet is how long nobody has asked for anything when memory is given back to the
	// host, if there were as many requests as garbageRequests since the last time: a
	// guest that reads a tree leaves a third of the heap as garbage.
	quiet           = time.Second
	garbageRequests = 1000
)

// Go code runs on one thread at a time where requests are short: with more, each
// notification of the guest wakes several threads, which takes more time than most
// requests. Where requests wait for disks, more of them are to be under way than
// Go's scheduler, which looks every now and then for threads that wait, would begin.
const (
	calmProcs = 1
	busyProcs = 4
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
// interval ago, and tidies up where there are no requests any more.
func (d *device) watch() {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	calm := time.NewTimer(quiet)
	defer calm.Stop()
	for tidied := uint64(0); ; {
		ticker.Stop()
		select {
		case <-d.wakeUp:
		case <-calm.C:
			if now := d.session.total(); now-tidied >= garbageRequests {
				tidied = now
				d.tidy()
			}
			continue
		case <-d.ended:
			return
		}
		calm.Stop()
		ticker.Reset(watchInterval)
		procs := calmProcs
		for idle := 0; idle < watchIdle; {
			select {
			case <-ticker.C:
			case <-d.ended:
				return
			}
			idle++
			waits := false
			for _, q := range d.queues {
				active, slow := q.relieve()
				waits = waits || slow
				if active {
					idle = 0
				}
			}
			if waits && procs == calmProcs {
				procs = busyProcs
				runtime.GOMAXPROCS(min(runtime.NumCPU(), procs))
			}
		}
		if procs != calmProcs {
			runtime.GOMAXPROCS(calmProcs)
		}
		calm.Reset(quiet)
		d.sleep()
	}
}

// sleep lets the next request wake the watchdog, or one that has come since the queues
// were looked at.
func (d *device) sleep() {
	d.asleep.Store(true)
	for _, q := range d.queues {
		if active, _ := q.relieve(); active {
			d.stir()
		}
	}
}
