package network

import (
	"context"
	"regexp"
	"time"
)

// How long Follow waits before it tries again what has failed: twice as long
// each time. Nothing tells it when the guest or the VMM could.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Follow calls Sync after each change of the namespace, until ctx ends or the
// network is closed. What has failed is tried again.
func (n *Network) Follow(ctx context.Context) {
	stop := context.AfterFunc(ctx, n.changes.close)
	defer stop()
	changed, received := n.changes.receive()
	defer received()
	f := &follower{network: n, retry: time.NewTimer(lastRetry)}
	f.retry.Stop()
	defer f.retry.Stop()
	for {
		select {
		case _, more := <-changed:
			if !more {
				return
			}
			f.change(ctx)
		case <-f.retry.C:
			f.sync(ctx)
		}
	}
}

// follower is what Follow remembers from one Sync to the next.
type follower struct {
	network *Network
	retry   *time.Timer // runs after a failure
	failure string      // of the last Sync; empty after a success
	failed  time.Time   // when that was
	delay   time.Duration
}

// change follows a change. A failed attempt to connect an interface is itself
// seen as some: after a failure only what makes the namespace another than it
// was then counts, and that no more often than firstRetry.
func (f *follower) change(ctx context.Context) {
	if f.failure != "" {
		if !f.network.hasChanged() {
			return
		}
		f.delay = 0
		f.retry.Reset(time.Until(f.failed.Add(firstRetry)))
	}
	if f.network.options.Changed != nil {
		f.network.options.Changed()
	}
	if f.failure == "" {
		f.sync(ctx)
	}
}

func (f *follower) sync(ctx context.Context) {
	err := f.network.Sync(ctx)
	if err == nil || ctx.Err() != nil {
		f.failure, f.delay = "", 0
		f.retry.Stop()
		return
	}
	if failure := withoutSerials(err); failure != f.failure {
		f.failure = failure
		f.network.options.Log.Warn("the guest's network does not follow the namespace's", "error", err)
	}
	f.failed = time.Now()
	f.delay = min(max(firstRetry, 2*f.delay), lastRetry)
	f.retry.Reset(f.delay)
}

var serials = regexp.MustCompile(devicePrefix + `\d+`)

// withoutSerials is the same for the same failure: each NIC that is plugged in
// has an id of its own.
func withoutSerials(err error) string { return serials.ReplaceAllString(err.Error(), devicePrefix) }

// hasChanged tells whether the namespace is another than at the last Sync.
func (n *Network) hasChanged() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	snapshot, err := n.namespace.Scan(n.isOurs)
	return err != nil || n.seen == nil || !snapshot.equal(n.seen)
}
