package fileserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

// The opcodes of the tests' own.
const opStatfs = 17

// files is a file system of one file, whose operations can be made to wait.
type files struct {
	fuse.RawFileSystem
	file *os.File
	// entered gets what waits; each waits for a value of leave.
	entered chan string
	leave   chan struct{}
	mu      sync.Mutex
	block   map[string]bool
	// forgotten is how many files the guest has forgotten.
	forgotten atomic.Uint64
}

func newFiles(t testing.TB, block ...string) *files {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "file")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	f := &files{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), file: file,
		entered: make(chan string, 16), leave: make(chan struct{}), block: make(map[string]bool),
	}
	for _, name := range block {
		f.block[name] = true
	}
	return f
}

func (f *files) Forget(_, n uint64) { f.forgotten.Add(n) }

func (f *files) wait(name string) {
	f.mu.Lock()
	blocks := f.block[name]
	f.mu.Unlock()
	if blocks {
		f.entered <- name
		<-f.leave
	}
}

func (f *files) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	f.wait("read")
	return fuse.ReadResultFd(f.file.Fd(), int64(in.Offset), int(in.Size)), fuse.OK
}

func (f *files) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	n, err := unix.Pwritev(int(f.file.Fd()), data, int64(in.Offset))
	return uint32(max(n, 0)), fuse.ToStatus(err)
}

func (f *files) GetAttr(<-chan struct{}, *fuse.GetAttrIn, *fuse.AttrOut) fuse.Status {
	f.wait("getattr")
	return fuse.ENOENT
}

func (f *files) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status {
	f.wait("lock")
	return fuse.OK
}

func (f *files) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Blocks = 42
	return fuse.OK
}

// transfer is the body of a read or a write.
func transfer(offset uint64, size uint32) []byte {
	return drivertest.Put(uint64(0), offset, size, uint32(0), uint64(0), uint32(0), uint32(0))
}

func eachFeatures(t *testing.T, test func(t *testing.T, features uint64)) {
	t.Helper()
	for name, features := range map[string]uint64{
		"plain": 0, "indirect": drivertest.FeatureIndirect, "all": drivertest.FeatureIndirect | drivertest.FeatureEventIndex,
	} {
		t.Run(name, func(t *testing.T) { test(t, features) })
	}
}

// TestTransfers moves data in pieces of every alignment, and answers each request in
// its own buffers.
func TestTransfers(t *testing.T) {
	eachFeatures(t, func(t *testing.T, features uint64) {
		f := newFiles(t)
		g := newGuest(t, f, features)
		var content []byte
		for round := range 200 {
			piece := bytes.Repeat([]byte{byte(round)}, 1+37*round%7000)
			data := g.want(g.send(opWrite, 1, append(transfer(uint64(len(content)), uint32(len(piece))), piece...), outHeaderSize+writeOutSize), 0)
			if want := drivertest.Put(uint32(len(piece)), uint32(0)); !bytes.Equal(data, want) {
				t.Fatalf("a write of %d bytes is answered by %x", len(piece), data)
			}
			content = append(content, piece...)
			offset := max(0, len(content)-9000)
			size := min(len(content)-offset+10, 3*segment)
			got := g.want(g.send(opRead, 1, transfer(uint64(offset), uint32(size)), outHeaderSize+size), 0)
			if want := content[offset:min(len(content), offset+size)]; !bytes.Equal(got, want) {
				t.Fatalf("read %d bytes at %d, which are others than the %d written", len(got), offset, len(want))
			}
			if round%50 == 49 {
				g.pause()
				g.boot()
			}
		}
		if got := g.want(g.send(opStatfs, 1, nil, outHeaderSize+80), 0); got[0] != 42 {
			t.Errorf("statfs: %x", got)
		}
		g.want(g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104), unix.ENOENT)
		g.want(g.send(4000, 1, nil, outHeaderSize), unix.ENOSYS)
	})
}

// TestBadRequests are answered by errors.
func TestBadRequests(t *testing.T) {
	g := newGuest(t, newFiles(t), drivertest.FeatureEventIndex)
	for name, r := range map[string]struct {
		opcode uint32
		body   []byte
		room   int
		want   unix.Errno
	}{
		"write of less":        {opWrite, append(transfer(0, 100), make([]byte, 99)...), 24, unix.EINVAL},
		"write of more":        {opWrite, append(transfer(0, 100), make([]byte, 101)...), 24, unix.EINVAL},
		"write without a size": {opWrite, make([]byte, 10), 24, unix.EINVAL},
		"write without room":   {opWrite, append(transfer(0, 1), 0), 20, unix.EINVAL},
		"read without a size":  {opRead, make([]byte, 8), 24, unix.EIO},
		"attributes, short":    {opGetAttr, nil, 120, unix.EIO},
		"attributes, no room":  {opGetAttr, make([]byte, 16), 16, unix.EIO},
		"a long request":       {opGetAttr, make([]byte, maxInput), 120, unix.E2BIG},
		"an unknown request":   {99, nil, 16, unix.ENOSYS},
	} {
		t.Run(name, func(t *testing.T) {
			g.t = t
			g.want(g.send(r.opcode, 1, r.body, r.room), r.want)
		})
	}
}

// TestReadIsBounded: a guest that has the same page many times as its buffer, or asks
// for more than there is room.
func TestReadIsBounded(t *testing.T) {
	f := newFiles(t)
	if _, err := f.file.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, f, 0)
	if got := g.want(g.send(opRead, 1, transfer(0, 1<<31), outHeaderSize+50), 0); len(got) != 50 {
		t.Errorf("read %d bytes, want the 50 that there is room for", len(got))
	}
}

// TestLockHoldsUpNothing: while a request waits for a lock, others are answered,
// memory comes and goes, and the machine is paused; its answer comes in the end.
func TestLockHoldsUpNothing(t *testing.T) {
	eachFeatures(t, func(t *testing.T, features uint64) {
		f := newFiles(t, "lock")
		g := newGuest(t, f, features)
		lock := g.send(opSetLockWait, 1, make([]byte, 48), outHeaderSize)
		<-f.entered
		g.want(g.send(opStatfs, 1, nil, outHeaderSize+80), 0)
		plugged := drivertest.Region{Guest: 1 << 40, Size: 1 << 20, User: 1 << 41, Offset: 0}
		add := append(drivertest.Put(uint64(0)), drivertest.Put(plugged.Guest, plugged.Size, plugged.User, plugged.Offset)...)
		g.Ack(addMemReg, add, int(g.mem.File.Fd()))
		g.Ack(remMemReg, add, int(g.mem.File.Fd()))
		g.pause()
		f.leave <- struct{}{}
		g.resume()
		g.want(lock, 0)
		g.want(g.send(opStatfs, 1, nil, outHeaderSize+80), 0)
	})
}

// TestTooManyLocks: where as many requests wait for locks as may, a further one does not
// keep a worker waiting.
func TestTooManyLocks(t *testing.T) {
	var chain virtqueue.Chain
	reply := make([]byte, outHeaderSize)
	chain.Readable = [][]byte{encode(opSetLockWait, 7, 1, make([]byte, 48))}
	chain.Writable = [][]byte{reply}
	w := &worker{queue: newQueue(&device{session: newSession(newFiles(t, "lock"), fuse.MountOptions{})})}
	if err := w.request.read(&chain); err != nil {
		t.Fatal(err)
	}
	if n, err := w.carryOut(); n != outHeaderSize || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if status := -int32(binary.LittleEndian.Uint32(reply[4:])); unix.Errno(status) != unix.ENOLCK {
		t.Errorf("status %d", status)
	}
}

// tellingFiles have a file that tells of changes.
type tellingFiles struct{ *files }

func (tellingFiles) IsEvents(uint64) bool { return true }

func (tellingFiles) ReadEvents(uint32) ([]byte, fuse.Status) { return nil, fuse.OK }

// TestLocksAndEvents: however many containers wait for locks, the agent waits for changes.
func TestLocksAndEvents(t *testing.T) {
	q := newQueue(&device{session: newSession(tellingFiles{newFiles(t)}, fuse.MountOptions{})})
	for _, each := range []struct {
		opcode  uint32
		body    []byte
		waiting int
		want    bool
	}{
		{opSetLockWait, make([]byte, 48), maxWaiting - 1, true},
		{opSetLockWait, make([]byte, 48), maxWaiting, false},
		{opRead, transfer(0, 100), maxWaiting, true},
		{opRead, transfer(0, 100), maxWaiting + maxTelling, false},
		{opStatfs, nil, 0, false},
	} {
		var chain virtqueue.Chain
		chain.Readable = [][]byte{encode(each.opcode, 7, 1, each.body)}
		w := &worker{queue: q}
		if err := w.request.read(&chain); err != nil {
			t.Fatal(err)
		}
		q.waiting = each.waiting
		if got := w.mayWait(); got != each.want {
			t.Errorf("request %d beside %d that wait: may wait %t", each.opcode, each.waiting, got)
		}
	}
}

// TestLockOfAnotherDriver: a guest that has started anew gets no reply to what it
// asked before.
func TestLockOfAnotherDriver(t *testing.T) {
	f := newFiles(t, "lock")
	g := newGuest(t, f, drivertest.FeatureEventIndex)
	g.send(opSetLockWait, 1, make([]byte, 48), outHeaderSize)
	<-f.entered
	g.pause()
	g.boot()
	f.leave <- struct{}{}
	for range 10 {
		g.want(g.send(opStatfs, 1, nil, outHeaderSize+80), 0)
	}
}

// TestStuckRequestsHoldUpNothing: whatever takes long is overtaken, as often as there
// are workers, and what waits for them is carried out then.
func TestStuckRequestsHoldUpNothing(t *testing.T) {
	f := newFiles(t, "getattr", "read")
	g := newGuest(t, f, drivertest.FeatureIndirect|drivertest.FeatureEventIndex)
	stuck := make(map[uint64]bool)
	for range 5 {
		stuck[g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104)] = true
		<-f.entered
		g.want(g.send(opStatfs, 1, nil, outHeaderSize+80), 0)
	}
	for range 5 {
		f.leave <- struct{}{}
		delete(stuck, g.receive().unique)
	}
	if len(stuck) > 0 {
		t.Errorf("no reply to %v", stuck)
	}
}

// TestWatchdogSleeps: a request that comes while the watchdog is about to sleep is watched.
func TestWatchdogSleeps(t *testing.T) {
	d := &device{}
	d.wakeUp = make(chan struct{}, 1)
	for i := range d.queues {
		d.queues[i] = newQueue(d)
	}
	q := d.queues[1]
	q.leader = &worker{queue: q}
	if q.relieve(); len(d.wakeUp) != 0 {
		t.Error("nothing was to be done")
	}
	q.leader.turn++ // it has a request
	d.stir()        // which the watchdog needs not be told, being awake
	d.sleep()
	if len(d.wakeUp) != 1 || d.asleep.Load() {
		t.Error("the watchdog sleeps while a request is carried out")
	}
}

// TestTidy: memory is given back after many requests, once, and not after few.
func TestTidy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tidied := 0
		d := newDevice(newSession(newFiles(t), fuse.MountOptions{}), func(err error) { t.Error(err) })
		d.tidy = func() { tidied++ }
		for _, step := range []struct{ requests, want int }{{garbageRequests, 1}, {0, 1}, {garbageRequests - 1, 1}, {1, 2}} {
			d.session.requests[opLookup].Add(uint64(step.requests))
			d.stir()
			<-time.After(10 * quiet)
			synctest.Wait()
			if tidied != step.want {
				t.Errorf("after %d requests more: %d times, want %d", step.requests, tidied, step.want)
			}
		}
		d.close()
	})
}

// TestManyAtOnce has more requests at work than there are workers.
func TestManyAtOnce(t *testing.T) {
	f := newFiles(t, "getattr")
	f.entered = make(chan string, queueSize)
	g := newGuest(t, f, drivertest.FeatureIndirect|drivertest.FeatureEventIndex)
	for range queueSize {
		g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104)
	}
	go func() {
		for range queueSize {
			f.leave <- struct{}{}
		}
	}()
	for range queueSize {
		if got := g.receive(); got.status != -int32(unix.ENOENT) {
			t.Fatal(got)
		}
	}
}

// TestBrokenDriver: what no driver does ends the device.
func TestBrokenDriver(t *testing.T) {
	for name, test := range map[string]struct {
		buffers []drivertest.Buffer
		want    string
	}{
		"outside memory": {[]drivertest.Buffer{{Addr: 1 << 50, Size: 64}}, "outside guest memory"},
		"no header":      {[]drivertest.Buffer{{Addr: drivertest.LowBase, Size: 39}}, "less than a header"},
		"nothing":        {[]drivertest.Buffer{{Addr: drivertest.LowBase, Size: 64, Write: true}}, "less than a header"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, newFiles(t), drivertest.FeatureEventIndex)
			g.offer(pending{}, test.buffers...)
			if err := g.broken(); err == nil || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("%v, want one with %q", err, test.want)
			}
		})
	}
}

// TestMemoryGoes: memory that is cut short under the device ends it.
func TestMemoryGoes(t *testing.T) {
	f := newFiles(t, "getattr")
	g := newGuest(t, f, drivertest.FeatureEventIndex)
	g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104)
	<-f.entered
	if err := g.mem.File.Truncate(0); err != nil {
		t.Fatal(err)
	}
	f.leave <- struct{}{}
	if err := g.broken(); err == nil {
		t.Error("the device serves a guest whose memory has gone")
	}
}

// TestKickGoes: a descriptor that can be waited for no more ends the device, which
// would otherwise never sleep again.
func TestKickGoes(t *testing.T) {
	g := newGuest(t, newFiles(t), drivertest.FeatureEventIndex)
	g.pause()
	var readers []int
	g.kickFile = func(t testing.TB) *os.File {
		t.Helper()
		reader, kick := fullPipe(t)
		readers = append(readers, reader)
		return kick
	}
	g.resume()
	for _, reader := range readers {
		if err := unix.Close(reader); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.broken(); err == nil || !strings.Contains(fmt.Sprint(err), "wait for notifications") {
		t.Errorf("%v, want one of waiting", err)
	}
}

// fullPipe returns the ends of a pipe that nothing more can be written to.
func fullPipe(t testing.TB) (reader int, writer *os.File) {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	for page := make([]byte, os.Getpagesize()); ; {
		if _, err := unix.Write(ends[1], page); err != nil {
			break
		}
	}
	writer = os.NewFile(uintptr(ends[1]), "a full pipe")
	t.Cleanup(func() { _ = writer.Close() })
	return ends[0], writer
}
