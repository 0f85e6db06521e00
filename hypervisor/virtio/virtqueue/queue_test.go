package virtqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// guestMemory translates addresses of a simulated guest.
type guestMemory struct{ *drivertest.Memory }

var errOutside = errors.New("outside")

func (m guestMemory) Append(dst [][]byte, addr uint64, size uint32) ([][]byte, error) {
	b := m.At(addr, uint64(size))
	if b == nil {
		return dst, errOutside
	}
	return append(dst, b), nil
}

// newQueues returns both sides of a queue.
func newQueues(t testing.TB, size uint16, features uint64) (*drivertest.Queue, *virtqueue.Queue, *drivertest.Memory) {
	t.Helper()
	mem := drivertest.NewMemory(t, 1<<20)
	driver := drivertest.NewQueue(mem, size, features)
	device, err := virtqueue.New(guestMemory{mem}, config(driver, features))
	if err != nil {
		t.Fatal(err)
	}
	return driver, device, mem
}

func config(q *drivertest.Queue, features uint64) virtqueue.Config {
	return virtqueue.Config{
		Size: q.Size, Features: features,
		Desc:  q.Mem.At(q.Desc, virtqueue.DescBytes(q.Size)),
		Avail: q.Mem.At(q.Avail, virtqueue.AvailBytes(q.Size)),
		Used:  q.Mem.At(q.Used, virtqueue.UsedBytes(q.Size)),
	}
}

// TestEveryFeature passes chains around the ring, once beyond the wrap of its
// indices.
func TestEveryFeature(t *testing.T) {
	for _, features := range []uint64{0, virtqueue.FeatureIndirect, virtqueue.FeatureEventIndex, virtqueue.FeatureIndirect | virtqueue.FeatureEventIndex} {
		t.Run(fmt.Sprintf("%#x", features), func(t *testing.T) {
			driver, device, mem := newQueues(t, 8, features)
			in, out := mem.Alloc(16), mem.Alloc(16)
			var chain virtqueue.Chain
			rounds := 1000
			if features == virtqueue.FeatureIndirect|virtqueue.FeatureEventIndex {
				rounds = 70_000
			}
			for round := range rounds {
				copy(mem.At(in, 16), fmt.Sprintf("round %10d", round))
				driver.Add(drivertest.Buffer{Addr: in, Size: 16}, drivertest.Buffer{Addr: out, Size: 10, Write: true}, drivertest.Buffer{Addr: out + 10, Size: 6, Write: true})
				driver.Publish()
				if ok, err := device.Pop(&chain); !ok || err != nil {
					t.Fatalf("round %d: %v, %v", round, ok, err)
				}
				var got [16]byte
				if n := virtqueue.CopyOut(got[:], chain.Readable, 0); n != 16 || virtqueue.Size(chain.Writable) != 16 {
					t.Fatalf("round %d: %d bytes to read, %d to write", round, n, virtqueue.Size(chain.Writable))
				}
				virtqueue.Copy(chain.Writable, 0, got[:])
				device.Push(&chain, 16)
				device.Publish()
				if _, n, ok := driver.Take(3); !ok || n != 16 || !bytes.Equal(mem.At(in, 16), mem.At(out, 16)) {
					t.Fatalf("round %d: driver got %v, %d bytes", round, ok, n)
				}
			}
			if ok, err := device.Pop(&chain); ok || err != nil {
				t.Errorf("empty queue: %v, %v", ok, err)
			}
		})
	}
}

// A chain may be as long as the queue, whether it is in an indirect table or in part, and
// no longer; one that is a ring ends.
func TestLongestChain(t *testing.T) {
	const size = 8
	for name, c := range map[string]struct {
		direct, table int // descriptors in the queue's table, and in an indirect one behind them
		ring          bool
		want          int // buffers; -1 for an error
	}{
		"all of the queue":         {direct: size, want: size},
		"a ring":                   {direct: size, ring: true, want: -1},
		"a table of one":           {table: 1, want: 1},
		"a table as the queue":     {table: size, want: size},
		"a ring in a table":        {table: size, ring: true, want: -1},
		"a longer table":           {table: size + 1, want: -1},
		"a table behind others":    {direct: 3, table: size - 3, want: size},
		"too long a table behind":  {direct: 3, table: size - 2, want: -1},
		"a full table behind":      {direct: 1, table: size, want: -1},
		"a table behind seven":     {direct: size - 1, table: 1, want: size},
		"a table of two, likewise": {direct: size - 1, table: 2, want: -1},
	} {
		t.Run(name, func(t *testing.T) {
			driver, device, mem := newQueues(t, size, virtqueue.FeatureIndirect)
			buffer := mem.Alloc(1)
			fill := func(table []byte, n int, more bool) {
				for i := range uint16(n) {
					flags, next := uint16(drivertest.Next), i+1
					if int(next) == n && !more {
						flags, next = 0, 0
						if c.ring {
							flags = drivertest.Next
						}
					}
					drivertest.PutDescriptor(table, i, buffer, 1, flags, next)
				}
			}
			table := mem.At(driver.Desc, virtqueue.DescBytes(size))
			fill(table, c.direct, c.table > 0)
			if c.table > 0 {
				room := uint64(16 * c.table)
				at := mem.Alloc(room)
				fill(mem.At(at, room), c.table, false)
				drivertest.PutDescriptor(table, uint16(c.direct), at, uint32(room), drivertest.Indirect, 0)
			}
			driver.Offer(0)
			driver.Publish()
			var chain virtqueue.Chain
			ok, err := device.Pop(&chain)
			if c.want < 0 {
				if err == nil {
					t.Errorf("taken: %d buffers", len(chain.Readable))
				}
				return
			}
			if !ok || err != nil || len(chain.Readable) != c.want {
				t.Errorf("%v, %v: %d buffers, want %d", ok, err, len(chain.Readable), c.want)
			}
		})
	}
}

// TestNotifications: each side is notified when it waits, and not otherwise.
func TestNotifications(t *testing.T) {
	for _, features := range []uint64{0, virtqueue.FeatureEventIndex} {
		t.Run(fmt.Sprintf("%#x", features), func(t *testing.T) {
			driver, device, mem := newQueues(t, 8, features)
			var chain virtqueue.Chain
			add := func() bool {
				driver.Add(drivertest.Buffer{Addr: mem.Alloc(1), Size: 1})
				return driver.Publish()
			}
			use := func() bool {
				if ok, err := device.Pop(&chain); !ok || err != nil {
					t.Fatalf("%v, %v", ok, err)
				}
				device.Push(&chain, 0)
				return device.Publish()
			}
			if more, err := device.WantNotify(); more || err != nil {
				t.Fatalf("empty queue: %v, %v", more, err)
			}
			if !add() {
				t.Error("no notification of the chain that is waited for")
			}
			device.RefuseNotify()
			if add() {
				t.Error("notification of a chain that nobody waits for")
			}
			if more, err := device.WantNotify(); !more || err != nil {
				t.Errorf("two chains are there: %v, %v", more, err)
			}
			if !use() {
				t.Error("no call for the first used chain")
			}
			if called := use(); called == (features != 0) {
				t.Errorf("call for a chain that the driver does not wait for: %v", called)
			}
			driver.Take(1)
			driver.Take(1)
			driver.WantCall()
			add()
			if !use() {
				t.Error("no call for the chain that is waited for")
			}
			if device.Publish() {
				t.Error("call without a used chain")
			}
		})
	}
}

// TestRebind: a queue moves to another view of memory and continues.
func TestRebind(t *testing.T) {
	driver, device, mem := newQueues(t, 4, 0)
	var chain virtqueue.Chain
	driver.Add(drivertest.Buffer{Addr: mem.Alloc(1), Size: 1})
	driver.Add(drivertest.Buffer{Addr: mem.Alloc(1), Size: 1})
	driver.Publish()
	if ok, err := device.Pop(&chain); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := device.Rebind(guestMemory{mem}, config(driver, 0)); err != nil {
		t.Fatal(err)
	}
	if ok, err := device.Pop(&chain); !ok || err != nil || device.Base() != 2 {
		t.Errorf("after the move: %v, %v at %d", ok, err, device.Base())
	}
	cfg := config(driver, 0)
	cfg.Base = 2
	device, err := virtqueue.New(guestMemory{mem}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := device.Pop(&chain); ok || err != nil {
		t.Errorf("a queue that continues at 2: %v, %v", ok, err)
	}
}

func TestBadConfig(t *testing.T) {
	mem := drivertest.NewMemory(t, 1<<20)
	driver := drivertest.NewQueue(mem, 8, 0)
	for name, change := range map[string]func(*virtqueue.Config){
		"no size":         func(c *virtqueue.Config) { c.Size = 0 },
		"odd size":        func(c *virtqueue.Config) { c.Size = 7 },
		"huge size":       func(c *virtqueue.Config) { c.Size = 65535 },
		"other size":      func(c *virtqueue.Config) { c.Size = 16 },
		"short table":     func(c *virtqueue.Config) { c.Desc = c.Desc[16:] },
		"no rings":        func(c *virtqueue.Config) { c.Avail, c.Used = nil, nil },
		"unaligned table": func(c *virtqueue.Config) { c.Desc = mem.At(driver.Desc+8, virtqueue.DescBytes(8)) },
		"unaligned avail": func(c *virtqueue.Config) { c.Avail = mem.At(driver.Avail+1, virtqueue.AvailBytes(8)) },
		"unaligned used":  func(c *virtqueue.Config) { c.Used = mem.At(driver.Used+2, virtqueue.UsedBytes(8)) },
	} {
		cfg := config(driver, 0)
		change(&cfg)
		if _, err := virtqueue.New(guestMemory{mem}, cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestCopy(t *testing.T) {
	buffers := [][]byte{make([]byte, 3), make([]byte, 1), make([]byte, 4)}
	if n := virtqueue.Copy(buffers, 2, []byte("abcdefghij")); n != 6 {
		t.Errorf("copied %d bytes", n)
	}
	if got := bytes.Join(buffers, nil); string(got) != "\x00\x00abcdef" {
		t.Errorf("buffers hold %q", got)
	}
	got := make([]byte, 3)
	if n := virtqueue.CopyOut(got, buffers, 3); n != 3 || string(got) != "bcd" {
		t.Errorf("copied out %q", got[:n])
	}
	if n := virtqueue.CopyOut(got, buffers, 8); n != 0 {
		t.Errorf("copied out %d bytes beyond the end", n)
	}
	if n := virtqueue.Copy(buffers, 100, []byte("x")); n != 0 {
		t.Errorf("copied %d bytes beyond the end", n)
	}
}
