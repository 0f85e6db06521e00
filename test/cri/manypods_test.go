//go:build vm

package cri

import (
	"fmt"
	"os"
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
	var group sync.WaitGroup
	for range together {
		group.Go(func() {
			for i := range numbers {
				t.Run(fmt.Sprint(i), func(t *testing.T) { testOnePod(k.in(t), handler, i) })
			}
		})
	}
	for i := range count {
		numbers <- i
	}
	close(numbers)
	group.Wait()
}

func testOnePod(k *kubelet, handler string, number int) {
	k.t.Helper()
	began := time.Now()
	p := k.run(handler, k.podConfig(fmt.Sprintf("pod%d", number)))
	c := p.start("main", "echo ready; sleep 100000").await("ready")
	p.start("other", "echo ready; sleep 100000").await("ready")
	if got := c.output("hostname"); got != p.config.Hostname+"\n" {
		k.t.Errorf("hostname %q", got)
	}
	p.remove() // with its running containers
	k.t.Logf("pod %d took %v", number, time.Since(began).Round(time.Millisecond))
}
