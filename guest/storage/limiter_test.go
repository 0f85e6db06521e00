package storage

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// guestKernel counts names the way a kernel does, and grows at a rate.
type guestKernel struct {
	started time.Time
	rate    int64 // names per second
	dropped int64
	pinned  int64
	peak    int64
	drops   int
}

func (k *guestKernel) count() (int64, error) {
	n := k.pinned + int64(time.Since(k.started).Seconds()*float64(k.rate)) - k.dropped
	k.peak = max(k.peak, n-k.pinned)
	return n, nil
}

func (k *guestKernel) forget() error {
	n, _ := k.count()
	k.dropped += n - k.pinned
	k.drops++
	return nil
}

func TestLimiterKeepsTheFastestGuestBelowTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &guestKernel{started: time.Now(), rate: fastestGrowth, pinned: 5000}
		l := &Limiter{log: slog.New(slog.DiscardHandler), limit: DefaultFileLimit, count: k.count, forget: k.forget}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l.Run(ctx)
		if k.peak > DefaultFileLimit || k.drops == 0 {
			t.Fatalf("peak of %d names with a limit of %d; %d drops", k.peak, DefaultFileLimit, k.drops)
		}
	})
}

func TestLimiterLeavesAnIdleGuestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &guestKernel{started: time.Now(), pinned: 100000}
		looks := 0
		count := func() (int64, error) {
			looks++
			return k.count()
		}
		l := &Limiter{log: slog.New(slog.DiscardHandler), limit: DefaultFileLimit, count: count, forget: k.forget}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l.Run(ctx)
		if k.drops != 0 || looks > 30 {
			t.Fatalf("%d drops and %d looks in ten idle seconds", k.drops, looks)
		}
	})
}

func TestLimiterEndsWithoutItsKernelInterface(t *testing.T) {
	missing := func() (int64, error) { return 0, errors.New("no such file") }
	l := &Limiter{log: slog.New(slog.DiscardHandler), limit: 1, count: missing}
	l.Run(t.Context())
}

func TestCountNamesOfThisMachine(t *testing.T) {
	n, err := countNames()
	if err != nil || n <= 0 {
		t.Fatalf("countNames = %d, %v", n, err)
	}
}
