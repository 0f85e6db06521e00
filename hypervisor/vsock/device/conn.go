package device

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/virtio/virtqueue"
)

const network = "vsock"

var (
	errProtocol = fmt.Errorf("guest broke the vsock protocol: %w", syscall.ECONNRESET)
	errPeerShut = fmt.Errorf("guest closed the connection: %w", syscall.EPIPE)
)

// peerCredit is what the guest last said of its receive buffer.
type peerCredit struct {
	v atomic.Uint64 // size, then bytes taken out so far
}

func (p *peerCredit) store(h header) { p.v.Store(uint64(h.bufAlloc)<<32 | uint64(h.fwdCnt)) }

// free is how many bytes fit into the guest's buffer after count were sent in
// all. Counters wrap. A guest that claims what cannot be gets nothing.
func (p *peerCredit) free(count uint32) int {
	v := p.v.Load()
	size, taken := uint32(v>>32), uint32(v)
	if used := count - taken; used < size {
		return int(size - used)
	}
	return 0
}

var _ net.Conn = (*Conn)(nil)

// Conn is the host's end of a connection. It is safe for concurrent use; of
// several readers, or writers, one works at a time.
type Conn struct {
	d   *Device
	key key
	// peer is written by the receiver and read by the sender.
	peer peerCredit
	// starved: the writer waits for credit. Set before the credit is looked at
	// for the last time, read after it was stored.
	starved atomic.Bool

	// The sending half is guarded by Device.sender.mu.
	links    links
	todo     todo
	known    bool   // to the guest: it made the connection, or was sent a request
	detached bool   // the device has removed the connection
	out      []byte // what the writer has left to send
	sent     uint32 // bytes of data in all
	sendErr  error  // why no data can be sent any more
	shut     uint32 // what the host will not do any more
	peerShut uint32 // what the guest will not do any more

	// Credit given to the guest. All counters wrap.
	window atomic.Uint32 // size of the receive window
	taken  atomic.Uint32 // bytes that readers took out
	edge   atomic.Uint32 // taken+window as the guest knows it; written under sender.mu

	mu       sync.Mutex // guards the fields below
	data     chunkQueue
	received uint32          // bytes of data in all
	eof      bool            // the guest sends no more
	recvErr  error           // returned after data
	open     bool            // established
	closed   bool            // by Close
	settled  chan struct{}   // closed when established or ended
	direct   syscall.RawConn // the socket of CopyTo
	parts    [][]byte        // those of pass
	idle     bool            // CopyTo waits, and has passed on all data before

	readLock  sync.Mutex // held by the reader at work
	reading   *chunk     // what the reader is at; guarded by readLock
	writeLock sync.Mutex // held by the writer at work

	sendEnded                   chan struct{} // closed when no data can be sent any more
	readable, writable          chan struct{} // hold a token when the waiter should look again
	readDeadline, writeDeadline deadline
}

func newConn(d *Device, k key) *Conn {
	c := &Conn{
		d: d, key: k,
		settled: make(chan struct{}), sendEnded: make(chan struct{}),
		readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1),
	}
	c.window.Store(firstWindow)
	c.edge.Store(firstWindow)
	return c
}

// LocalAddr returns the host's address, a *vsock.Addr.
func (c *Conn) LocalAddr() net.Addr { return hostAddress(c.key.local) }

// RemoteAddr returns the guest's address, a *vsock.Addr.
func (c *Conn) RemoteAddr() net.Addr { return c.d.address(c.key.remote) }

// LocalPort returns the host's port.
func (c *Conn) LocalPort() uint32 { return c.key.local }

// RemotePort returns the guest's port.
func (c *Conn) RemotePort() uint32 { return c.key.remote }

func hostAddress(port uint32) net.Addr { return &vsock.Addr{ContextID: hostCID, Port: port} }

func (d *Device) address(port uint32) net.Addr { return &vsock.Addr{ContextID: d.cid, Port: port} }

// opError wraps err as package net does. io.EOF stays as it is.
func (c *Conn) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// wake puts a token into ch unless there is one.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// establish says that both sides know of the connection.
func (c *Conn) establish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recvErr == nil && !c.open {
		c.open = true
		close(c.settled)
	}
}

func (c *Conn) isEstablished() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// dialError returns why a settled connection was not established.
func (c *Conn) dialError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		return nil
	}
	return c.recvErr
}

// resetError is what a reset by the guest means to readers and writers.
func (c *Conn) resetError() error {
	if !c.isEstablished() {
		return syscall.ECONNREFUSED
	}
	return syscall.ECONNRESET
}

// endReceive ends the receiving half: err follows the data.
func (c *Conn) endReceive(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recvErr == nil {
		c.recvErr = err
		if !c.open {
			close(c.settled)
		}
	}
	wake(c.readable)
}

// endOfData says that the guest sends no more data.
func (c *Conn) endOfData() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.eof = true
	wake(c.readable)
}

// deliver takes n bytes of data that follow the header in chain. It reports how many
// of them a reader has already.
func (c *Conn) deliver(chain *virtqueue.Chain, n int) (passed int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	free := c.taken.Load() + c.window.Load() - c.received
	if c.eof || n > int(free) {
		return 0, fmt.Errorf("%d bytes of data where %d are allowed: %w", n, free, errProtocol)
	}
	c.received += uint32(n)
	if c.closed || c.recvErr != nil {
		return 0, nil
	}
	if c.direct != nil && c.idle {
		passed = c.pass(chain.Readable, n)
	}
	if n -= passed; n == 0 {
		return passed, nil
	}
	c.idle = false // the rest goes first
	for at := headerSize + passed; n > 0; {
		room := c.data.room(&c.d.chunks)
		end := min(chunkSize, room.to+n)
		copied := virtqueue.CopyOut(room.data[room.to:end], chain.Readable, at)
		room.to += copied
		at, n = at+copied, n-copied
	}
	wake(c.readable)
	return passed, nil
}

// pass sends n bytes that follow the header in buffers to the socket, as far as that
// takes them at once. Whatever is in the way, CopyTo finds out.
func (c *Conn) pass(buffers [][]byte, n int) int {
	skip := headerSize
	c.parts = c.parts[:0]
	for _, b := range buffers {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		if b = b[:min(n, len(b))]; len(b) > 0 {
			c.parts = append(c.parts, b)
			n -= len(b)
		}
	}
	passed := 0
	err := c.direct.Control(func(fd uintptr) {
		sent, err := unix.SendmsgBuffers(int(fd), c.parts, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == nil {
			passed = sent
		}
	})
	clear(c.parts)
	if err != nil {
		return 0
	}
	return passed
}

// complete fills in a connection's last packet.
func (c *Conn) complete(r reply) reply {
	r.local, r.remote, r.kind = c.key.local, c.key.remote, typeStream
	r.bufAlloc, r.fwdCnt = c.window.Load(), c.taken.Load()
	return r
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn. It never fails.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readDeadline.set(t)
	wake(c.readable)
	return nil
}

// SetWriteDeadline implements net.Conn. It never fails. It holds also while the
// VM is paused.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeDeadline.set(t)
	wake(c.writable)
	return nil
}

// Close closes both directions. What was written reaches the guest, what was
// not read is discarded. Closing again does nothing.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.d.chunks.put(c.data.head)
	c.data = chunkQueue{}
	wake(c.readable)
	c.mu.Unlock()
	c.d.remove(c, net.ErrClosed, &reply{op: opShutdown, flags: shutBoth})
	c.d.flush()
	c.d.sender.mu.Lock()
	c.closeSend()
	c.d.sender.mu.Unlock()
	c.d.left.Add(int64(c.window.Load()) + connOverhead)
	return nil
}

// CloseWrite tells the guest that no more data will come; it reads to the end
// and can still send. A Write that has not returned fails.
func (c *Conn) CloseWrite() error { return c.shutdown(shutSend, "close write") }

// CloseRead tells the guest that its data will not be read any more. What it
// sends nevertheless is read as usual.
func (c *Conn) CloseRead() error { return c.shutdown(shutReceive, "close read") }

func (c *Conn) shutdown(what uint32, op string) error {
	var err error
	c.d.send(func(s *sender) {
		if c.detached {
			err = c.sendErr
			return
		}
		c.shut |= what
		if what == shutSend {
			c.failSend(syscall.EPIPE)
		}
		s.do(c, todoShutdown)
	})
	return c.opError(op, err)
}
