//go:build vm

package vm

import (
	"slices"
	"sync"
	"testing"
	"time"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestManyAtOnce starts pods at the same time: each runs, since their machines take turns
// to boot, and nothing is left.
func TestManyAtOnce(t *testing.T) {
	h := harness.New(t)
	dir := h.Bundle(bundle.Spec("/bin/true"))
	took := make([]time.Duration, size(3, 50))
	h.Patience = time.Duration(len(took)) * harness.Patience / 10 // the last waits for all others
	var all sync.WaitGroup
	began := time.Now()
	for i := range took {
		all.Go(func() {
			if result := h.Run("run", "-b", dir, h.ID()); result.Code != 0 || result.Stderr != "" {
				t.Errorf("pod %d of %d: exit code %d, %s", i, len(took), result.Code, result.Stderr)
			}
			took[i] = time.Since(began)
		})
	}
	all.Wait()
	slices.Sort(took)
	t.Logf("%d pods at once: the first had ended after %v, the last after %v", len(took), took[0], took[len(took)-1])
}

// TestManyCycles creates and removes pods one after the other: nothing is left of them,
// and the last ones take no longer than the first.
func TestManyCycles(t *testing.T) {
	h := harness.New(t)
	dir := h.Bundle(bundle.Spec("/bin/true"))
	took := make([]time.Duration, size(2, 1000))
	for i := range took {
		began := time.Now()
		if result := h.Run("run", "-b", dir, h.ID()); result.Code != 0 || result.Stderr != "" {
			t.Fatalf("pod %d: exit code %d, %s", i, result.Code, result.Stderr)
		}
		took[i] = time.Since(began)
	}
	const part = 100
	if len(took) < 2*part {
		return
	}
	first, last := median(took[:part]), median(took[len(took)-part:])
	t.Logf("medians of the first %d and the last %d of %d pods: %v, %v", part, part, len(took), first, last)
	if last > 2*first {
		t.Errorf("the last %d pods took %v, the first %v", part, last, first)
	}
}

func median(durations []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(durations))[len(durations)/2]
}
