package fileserver

import (
	"fmt"
	"sync"
	"time"

	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/virtio/virtqueue"
)

const (
	// maxWorkers bounds the requests of a queue that are carried out at once.
	maxWorkers = 64
	// spareWorkers are kept while there is nothing for them to do.
	spareWorkers = 4
	// maxWaiting bounds the requests of a queue that wait for other processes to give up
	// locks. As many more as maxTelling may wait for changes.
	maxWaiting = 512
	maxTelling = 4
	// slowRequests is for how many requests, since the last one that took longer than
	// slowTime, a queue changes leaders before each.
	slowRequests = 64
	slowTime     = 5 * time.Millisecond
	// waitingIO is how long reads and writes take, on average, where they wait for a
	// disk: longer than a change of threads.
	waitingIO = 100 * time.Microsecond
	// forgetPause is for how long the guest need not tell of files that it forgets,
	// after the last one: thousands come when it has too little memory.
	forgetPause = 5 * time.Millisecond
)

// queue is one virtqueue and those who serve it.
type queue struct {
	device *device
	// patience is how long the requests of a queue may wait once there were some,
	// since nobody waits for them.
	patience time.Duration

	mu sync.Mutex // guards the fields below
	// ring is nil while the queue is stopped; nothing is taken of it once stopping.
	ring     *vhostuser.Ring
	stopping bool
	// leader takes requests. There is one while ring is not nil, unless all workers
	// are at work.
	leader  *worker
	idle    []*worker
	workers int
	// busy workers use the ring or guest memory; calm is told when that is none.
	busy int
	calm sync.Cond
	// fresh counts the drivers that the queue had. A reply is for the one that asked.
	fresh   int
	waiting int
	// late are replies that came while the queue was stopped.
	late []*waiter
	// slow is for how many requests more the leader changes before each; ioTime is how
	// long reads and writes take, a moving average.
	slow   int
	ioTime time.Duration
	// watched is what relieve last saw of the leader.
	watched uint64
	closed  bool
}

func newQueue(d *device) *queue {
	q := &queue{device: d}
	q.calm.L = &q.mu
	return q
}

// worker is a goroutine that serves a queue.
type worker struct {
	queue *queue
	wake  chan struct{}
	chain virtqueue.Chain
	request
	// told says that the driver has just notified, and need not for now.
	told bool
	// turn counts the worker's requests; odd while one is carried out. queue.mu
	// guards it. At calm there were no more of them.
	turn, calm uint64
}

// waiter is a request that waits for another process.
type waiter struct {
	chain virtqueue.Chain
	fresh int
	reply []byte
}

func (q *queue) start(ring *vhostuser.Ring, fresh bool) {
	q.device.memory.RLock()
	defer q.device.memory.RUnlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.ring, q.stopping = ring, false
	late := q.late
	q.late = nil
	if fresh {
		q.fresh++
	}
	for _, w := range late {
		q.finish(w)
	}
	q.elect()
}

// stop returns when nobody uses the ring any more. Requests that wait for other
// processes are answered when the queue goes on.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ring == nil {
		return
	}
	q.stopping = true
	q.ring.Interrupt()
	for q.leader != nil || q.busy > 0 {
		q.calm.Wait()
	}
	q.ring = nil
}

// close ends the workers of a stopped queue.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, w := range q.idle {
		close(w.wake)
	}
	q.idle = nil
}

// elect lets a worker lead that has nothing to do. Without any, the first to be
// done will. q.mu is held.
func (q *queue) elect() {
	if q.leader != nil || q.stopping || q.ring == nil {
		return
	}
	var w *worker
	switch n := len(q.idle); {
	case n > 0:
		w, q.idle = q.idle[n-1], q.idle[:n-1]
	case q.workers < maxWorkers:
		q.workers++
		w = &worker{queue: q, wake: make(chan struct{}, 1)}
		q.device.work.Go(w.run)
	default:
		return
	}
	q.leader = w
	w.wake <- struct{}{}
}

// relieve lets another worker lead if the leader is at the same request as it was
// at the last call. It reports whether there was any request since, and whether
// requests take long at present.
func (q *queue) relieve() (active, slow bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.leader == nil {
		return q.busy > 0, q.slow > 0
	}
	before, turn := q.watched, q.leader.turn
	q.watched = turn
	if turn%2 == 1 && turn == before {
		q.slow = slowRequests
		q.leader = nil
		q.elect()
	}
	return turn%2 == 1 || turn != before, q.slow > 0
}

// run leads whenever it is asked to.
func (w *worker) run() {
	for range w.wake {
		for w.lead() {
		}
	}
}

// lead takes and carries out one request, or waits for some. It returns false when
// it leads no more.
func (w *worker) lead() bool {
	q := w.queue
	q.device.memory.RLock()
	q.mu.Lock()
	if q.leader != w || q.stopping {
		more := w.rest()
		q.mu.Unlock()
		q.device.memory.RUnlock()
		return more
	}
	ring := q.ring
	taken, err := w.take()
	if err != nil || !taken {
		if err != nil {
			// Nothing of the ring is to be believed any more.
			q.stopping = true
		}
		q.mu.Unlock()
		q.device.memory.RUnlock()
		switch {
		case err != nil:
			q.device.fail(err)
		case q.patience > 0 && w.turn != w.calm:
			// Some were there. Those that follow can wait and come together.
			w.calm = w.turn
			ring.Pause(q.patience)
		default:
			w.await(ring)
		}
		return true
	}
	w.turn++
	q.busy++
	begin := time.Now()
	if w.yields(q) {
		q.leader = nil
		q.elect()
		if q.leader == nil {
			q.leader = w // all others are at work
		}
	}
	waits := w.mayWait()
	if waits {
		q.waiting++
	}
	q.mu.Unlock()
	q.device.stir()
	var written uint32
	if waits {
		w.wait()
	} else {
		written, err = w.carryOut()
	}
	q.mu.Lock()
	if !waits && err == nil {
		err = q.push(ring, &w.chain, written)
	}
	w.turn++
	q.busy--
	q.account(&w.request, time.Since(begin))
	if err != nil {
		q.stopping = true
	}
	more := true
	if q.leader != w {
		more = w.rest()
	}
	if q.busy == 0 {
		q.calm.Broadcast()
	}
	q.mu.Unlock()
	q.device.memory.RUnlock()
	if err != nil {
		q.device.fail(err)
	}
	return more
}

// mayWait says whether the request is one that waits, and there are not too many of them. That
// of the agent's, for changes, is one whatever the containers wait for. q.mu is held.
func (w *worker) mayWait() bool {
	most := maxWaiting
	if w.opcode == opRead {
		most += maxTelling
	}
	return w.waits(w.queue.device.session) && w.queue.waiting < most
}

// await waits for the driver's next notification. Where none can come, nothing of the
// ring is to be believed any more.
func (w *worker) await(ring *vhostuser.Ring) {
	var err error
	if w.told, err = ring.Wait(w.available); err == nil {
		return
	}
	q := w.queue
	q.mu.Lock()
	q.stopping = true
	q.mu.Unlock()
	q.device.fail(err)
}

// available asks the driver to tell of the next request, and says whether there is
// something to do already.
func (w *worker) available() bool {
	q := w.queue
	q.device.memory.RLock()
	defer q.device.memory.RUnlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.leader != w || q.stopping {
		return true
	}
	more := false
	err := guard(func() (err error) {
		more, err = q.ring.WantNotify()
		return err
	})
	return more || err != nil // which Pop will find too
}

// take takes a request, if there is one. q.mu is held.
func (w *worker) take() (bool, error) {
	var taken bool
	err := guard(func() error {
		if w.told {
			w.queue.ring.RefuseNotify()
			w.told = false
		}
		var err error
		if taken, err = w.queue.ring.Pop(&w.chain); err != nil || !taken {
			return err
		}
		return w.request.read(&w.chain)
	})
	if err != nil {
		return false, fmt.Errorf("take a request: %w", err)
	}
	return taken, nil
}

// yields says whether another worker is to lead while this one carries out its
// request. q.mu is held.
func (w *worker) yields(q *queue) bool {
	if q.slow > 0 {
		q.slow--
		return true
	}
	switch {
	case w.request.slow():
		return true
	case w.request.large(), w.request.transfers() && q.ioTime > waitingIO:
		more := false
		_ = guard(func() (err error) {
			more, err = q.ring.More()
			return err // which Pop will find too
		})
		return more
	default:
		return false
	}
}

// account learns from the time that a request took. q.mu is held.
func (q *queue) account(r *request, took time.Duration) {
	const weight = 8
	if r.transfers() && !r.large() {
		q.ioTime += (took - q.ioTime) / weight
	}
	if took > slowTime && !r.slow() && !r.large() {
		q.slow = slowRequests
	}
}

// rest makes the worker one that has nothing to do, unless a leader is wanting or
// there are enough of them. It returns whether it leads. q.mu is held.
func (w *worker) rest() bool {
	q := w.queue
	switch {
	case q.leader == w: // of a queue that is to stop
		q.leader = nil
		q.calm.Broadcast()
	case q.leader == nil && q.ring != nil && !q.stopping:
		q.leader = w
		return true
	}
	if q.closed || len(q.idle) >= spareWorkers {
		q.workers--
		close(w.wake)
	} else {
		w.request.shrink()
		q.idle = append(q.idle, w)
	}
	return false
}

// push returns a request to the driver. q.mu is held.
func (q *queue) push(ring *vhostuser.Ring, chain *virtqueue.Chain, written uint32) error {
	call := false
	err := guard(func() error {
		ring.Push(chain, written)
		call = ring.Publish()
		return nil
	})
	if call {
		ring.Call()
	}
	if err != nil {
		return fmt.Errorf("return a request: %w", err)
	}
	return nil
}

// wait carries out the request on a goroutine of its own, which uses no guest
// memory until it has a reply.
func (w *worker) wait() {
	q := w.queue
	late := &waiter{fresh: q.fresh}
	late.chain, w.chain = w.chain, virtqueue.Chain{}
	in := append([]byte(nil), w.request.in...)
	go func() { // it may wait for ever, and nobody for it
		late.reply = q.device.session.reply(in)
		q.device.memory.RLock()
		defer q.device.memory.RUnlock()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.waiting--
		q.finish(late)
	}()
}

// finish returns a request that has waited. q.mu is held, and device.memory for
// reading.
func (q *queue) finish(w *waiter) {
	switch {
	case w.fresh != q.fresh || q.closed:
		return
	case q.ring == nil || q.stopping:
		q.late = append(q.late, w)
		return
	}
	written := 0
	err := guard(func() error {
		if err := q.ring.Reload(&w.chain); err != nil {
			return err
		}
		written = virtqueue.Copy(w.chain.Writable, 0, w.reply)
		return nil
	})
	if err == nil {
		err = q.push(q.ring, &w.chain, uint32(written))
	}
	if err != nil {
		q.stopping = true
		go q.device.fail(fmt.Errorf("answer a request that waited: %w", err))
	}
}
