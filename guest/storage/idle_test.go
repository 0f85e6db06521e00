package storage

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// idleGuest is a guest whose processor is busy at some times since its start.
type idleGuest struct {
	started time.Time
	busy    [][2]time.Duration // from, until
	always  float64            // the part that it does beside
	cached  int64
	drops   []time.Duration // when
}

func (g *idleGuest) used() (time.Duration, error) {
	now := time.Since(g.started)
	sum := time.Duration(float64(now) * g.always)
	for _, period := range g.busy {
		sum += max(0, min(now, period[1])-period[0])
	}
	return sum, nil
}

func (g *idleGuest) size() (int64, error) { return g.cached, nil }

func (g *idleGuest) drop() error {
	g.drops = append(g.drops, time.Since(g.started).Truncate(time.Second))
	return nil
}

func TestIdleDropper(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		guest idleGuest
		want  []time.Duration
	}{
		"idle from the start":         {idleGuest{cached: 1 << 30, always: 0.04}, []time.Duration{60 * s}},
		"once each time":              {idleGuest{cached: 1 << 30, busy: [][2]time.Duration{{20 * s, 40 * s}, {300 * s, 301 * s}}}, []time.Duration{105 * s, 375 * s}},
		"busy all the time":           {idleGuest{cached: 1 << 30, always: 0.06}, nil},
		"busy again and again":        {idleGuest{cached: 1 << 30, busy: [][2]time.Duration{{50 * s, 51 * s}, {100 * s, 101 * s}, {150 * s, 600 * s}}}, nil},
		"nothing that is worth while": {idleGuest{cached: 1 << 20}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.guest.started = time.Now()
				d := &IdleDropper{
					log: slog.New(slog.DiscardHandler), after: time.Minute,
					busy: test.guest.used, cached: test.guest.size, drop: test.guest.drop,
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				d.Run(ctx)
				if !slices.Equal(test.guest.drops, test.want) {
					t.Errorf("dropped after %v, want %v", test.guest.drops, test.want)
				}
			})
		})
	}
}

func TestIdleDropperEndsWithoutItsKernelInterface(t *testing.T) {
	missing := func() (time.Duration, error) { return 0, errors.New("no such file") }
	d := &IdleDropper{log: slog.New(slog.DiscardHandler), after: time.Minute, busy: missing}
	d.Run(t.Context())
}

func TestParseProcessorTime(t *testing.T) {
	got, err := parseProcessorTime([]byte("cpu  100 20 3 99999 88888 4 5 77777 66 6\ncpu0 1 2 3\n"))
	if err != nil || got != 1320*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8 9 10\n", "cpu 1 2 3 4 5 6 x 8 9 10\n"} {
		if got, err := parseProcessorTime([]byte(text)); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	if got, err := processorTime(); err != nil || got <= 0 {
		t.Errorf("this machine: %v, %v", got, err)
	}
}

func TestParseCachedContents(t *testing.T) {
	got, err := parseCachedContents([]byte("MemTotal: 9 kB\nActive(anon): 7 kB\nActive(file):      3 kB\nInactive(file):    5 kB\n"))
	if err != nil || got != 8<<10 {
		t.Errorf("%d, %v", got, err)
	}
	for _, text := range []string{"", "Active(file): 3 kB\n", "Active(file): x kB\nInactive(file): 5 kB\n"} {
		if got, err := parseCachedContents([]byte(text)); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
	if got, err := cachedContents(); err != nil || got <= 0 {
		t.Errorf("this machine: %d, %v", got, err)
	}
}
