//go:build vm

package network_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/network"
)

// reluctant is a machine and its guest, each of which refuses as often as it is
// told to. Attempts are the times of Attach and Tell.
type reluctant struct {
	mu       sync.Mutex
	refuse   int
	log      bytes.Buffer
	attempts chan time.Time
	told     chan *protocol.SetNetworkRequest
}

func (r *reluctant) attempt() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts <- time.Now()
	if r.refuse--; r.refuse >= 0 {
		return hypervisor.ErrNoSlot
	}
	return nil
}

func (r *reluctant) Attach(_ context.Context, d hypervisor.Device) error {
	if err := r.attempt(); err != nil {
		return errors.Join(errors.New(d.DeviceID()), err)
	}
	return nil
}

func (r *reluctant) Detach(context.Context, string) error { return nil }

// Write is the log's.
func (r *reluctant) Write(data []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(data)
}

func (r *reluctant) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// next waits for an attempt.
func (r *reluctant) next(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-r.attempts:
		return at
	case <-time.After(20 * time.Second):
		t.Fatal("it was not tried again")
		return time.Time{}
	}
}

// follow makes a guest follow a namespace that is still empty. Either Attach or
// Tell refuses.
func follow(t *testing.T, s *space, refuse int, tells bool) (r *reluctant, joined *network.Network, done chan struct{}) {
	t.Helper()
	namespace, err := network.OpenNamespace(s.path)
	if err != nil {
		t.Fatal(err)
	}
	r = &reluctant{refuse: refuse, attempts: make(chan time.Time, 10000), told: make(chan *protocol.SetNetworkRequest, 10000)}
	joined, err = network.Join(namespace, network.Options{
		Machine: r, Model: network.ModelTC, Queues: 1, Log: slog.New(slog.NewTextHandler(r, nil)),
		Tell: func(_ context.Context, request *protocol.SetNetworkRequest) error {
			if tells {
				if err := r.attempt(); err != nil {
					return err
				}
			}
			r.told <- request
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		joined.Follow(t.Context())
	}()
	t.Cleanup(func() {
		joined.Close()
		<-done
	})
	return r, joined, done
}

// TestInterfaceThatCannotBeConnected is not tried again because of what an
// attempt itself does to the namespace, and the others are followed.
func TestInterfaceThatCannotBeConnected(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	r, joined, done := follow(t, pod, 1000, false)
	pod.veth(t, host, "eth0")
	settled := r.next(t)
	for attempts := 0; ; attempts++ { // the interface came in several steps
		if attempts == 20 {
			t.Fatal("it is tried again and again")
		}
		at := r.next(t)
		if at.Sub(settled) > 1500*time.Millisecond {
			break
		}
		settled = at
	}
	last := r.next(t)
	if waited := last.Sub(settled); waited < 5*time.Second {
		t.Errorf("the third attempt came after %v", waited)
	}
	if got := strings.Count(r.logged(), "level=WARN"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, r.logged())
	}
	// What comes from outside is tried without waiting for the next attempt.
	if err := pod.LinkSetMTU(pod.link(t, "eth0"), 1300); err != nil {
		t.Fatal(err)
	}
	if waited := r.next(t).Sub(last); waited > 5*time.Second {
		t.Errorf("a change was followed after %v", waited)
	}
	began := time.Now()
	if err := joined.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it ended after %v", took)
	}
}

// TestFailureThatPasses is made good though nothing changes any more.
func TestFailureThatPasses(t *testing.T) {
	for _, tells := range []bool{false, true} {
		pod, host := newSpace(t), newSpace(t)
		r, _, _ := follow(t, pod, 3, tells)
		pod.veth(t, host, "eth0")
		timeout := time.After(20 * time.Second)
		for connected := false; !connected; {
			select {
			case request := <-r.told:
				connected = slices.Equal(names(request), []string{"eth0"}) && request.GetInterfaces()[0].GetUp()
			case <-timeout:
				t.Fatal("the guest was not told")
			}
		}
	}
}
