//go:build vm

package cri

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestPods lets pods of both runtimes and the host talk with each other.
func TestPods(t *testing.T) {
	k := newKubelet(t, containerd(1))
	host := listen(t)
	var pods []*pod
	var containers []*container
	for i, handler := range append(k.handlers(), k.handlers()...) {
		name := fmt.Sprintf("pod%d-%s", i, handler)
		p := k.run(handler, k.podConfig(name))
		pods = append(pods, p)
		containers = append(containers, p.start("server", serve("0.0.0.0", 80, name)).await("ready"))
	}
	for i, from := range containers {
		for j, to := range pods {
			if i == j {
				continue
			}
			if got := from.output(ask(to.ip, 80)); got != to.config.Hostname+"\n" {
				t.Errorf("%s to %s: %q", pods[i].config.Hostname, to.config.Hostname, got)
			}
		}
		if got := from.output(ask(gateway, host)); got != "host\n" {
			t.Errorf("%s to the host: %q", pods[i].config.Hostname, got)
		}
		if got := get(t, pods[i].ip); got != pods[i].config.Hostname+"\n" {
			t.Errorf("the host to %s: %q", pods[i].config.Hostname, got)
		}
	}
	for _, p := range pods {
		p.remove()
	}
}

// TestManyPods makes one pod after the other.
func TestManyPods(t *testing.T) {
	count := 3
	if os.Getenv("KATA_TEST_FULL") != "" {
		count = 10
	}
	testManyPods(t, newKubelet(t, containerd(1)), handler, count, 1)
}

// TestManyPodsByShim has several pods of two containers at a time: nothing of them
// is left, which the end of the test finds.
func TestManyPodsByShim(t *testing.T) {
	count := 4
	if os.Getenv("KATA_TEST_FULL") != "" {
		count = 30
	}
	testManyPods(t, newKubelet(t, containerd(1)), shimHandler, count, 4)
}

// testManyPods takes pods through their lives, some at a time.
func testManyPods(t *testing.T, k *kubelet, handler string, count, together int) {
	t.Helper()
	numbers := make(chan int)
	took := make([]time.Duration, count)
	var group sync.WaitGroup
	for range together {
		group.Go(func() {
			for i := range numbers {
				t.Run(fmt.Sprint(i), func(t *testing.T) { took[i] = testOnePod(k.in(t), handler, i) })
			}
		})
	}
	for i := range count {
		numbers <- i
	}
	close(numbers)
	group.Wait()
	if first, last := ends(took); last > first*growth {
		t.Errorf("of %d pods the first took %v, and the last %v", count, first, last)
	}
}

// growth is how many times as long as the first pods the last ones may take, on a
// machine that has other work too.
const growth = 2

// ends are the medians of the first and of the last third of many times; of few,
// which tell nothing, none.
func ends(times []time.Duration) (first, last time.Duration) {
	third := len(times) / 3
	if third < 3 {
		return 0, 0
	}
	median := func(part []time.Duration) time.Duration {
		sorted := slices.Sorted(slices.Values(part))
		return sorted[len(sorted)/2]
	}
	return median(times[:third]), median(times[len(times)-third:])
}

func TestEnds(t *testing.T) {
	for _, test := range []struct {
		times       []time.Duration
		first, last time.Duration
	}{
		{[]time.Duration{1, 2, 9, 9}, 0, 0},
		{[]time.Duration{3, 1, 2, 9, 9, 9, 5, 7, 6}, 2, 6},
		{[]time.Duration{3, 1, 2, 9, 9, 9, 9, 9, 2, 2, 80}, 2, 2},
	} {
		if first, last := ends(test.times); first != test.first || last != test.last {
			t.Errorf("of %v: %v, %v", test.times, first, last)
		}
	}
}

func testOnePod(k *kubelet, handler string, number int) time.Duration {
	k.t.Helper()
	began := time.Now()
	p := k.run(handler, k.podConfig(fmt.Sprintf("pod%d", number)))
	c := p.start("main", "echo ready; sleep 100000").await("ready")
	p.start("other", "echo ready; sleep 100000").await("ready")
	if got := c.output("hostname"); got != p.config.Hostname+"\n" {
		k.t.Errorf("hostname %q", got)
	}
	p.remove() // with its running containers
	took := time.Since(began)
	k.t.Logf("pod %d took %v", number, took.Round(time.Millisecond))
	return took
}
