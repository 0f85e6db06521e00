package fileserver

import (
	"encoding/binary"
	"errors"
	"fmt"

	"kata-runtime/hypervisor/virtio/virtqueue"
)

// The requests of linux/fuse.h that are not passed on as they are.
const (
	opLookup        = 1
	opForget        = 2
	opGetAttr       = 3
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opFsync         = 20
	opRelease       = 18
	opFlush         = 25
	opInit          = 26
	opSetLockWait   = 33
	opFsyncDir      = 30
	opFallocate     = 43
	opCopyFileRange = 47
	opSyncFS        = 50
)

// Sizes of linux/fuse.h, in bytes.
const (
	inHeaderSize  = 40
	outHeaderSize = 16
	// ioSize is that of a read's or a write's header and arguments.
	ioSize       = 80
	writeOutSize = 8
)

const (
	// maxTransfer bounds what a read or a write moves, and what a directory's
	// entries take. It is 256 pages, the most that a guest's kernel asks for.
	maxTransfer = 1 << 20
	// maxInput bounds a request without the data of a write: an extended attribute
	// has 64 KiB.
	maxInput = 128 << 10
	// largeTransfer is what takes longer than a change of threads.
	largeTransfer = 128 << 10
	// keptBuffer is the size of a buffer that a worker keeps.
	keptBuffer = 16 << 10
)

var errShort = errors.New("a FUSE request has less than a header, or nowhere for its reply")

// request is one request and its buffers. Those of the chain are guest memory.
type request struct {
	chain  *virtqueue.Chain
	opcode uint32
	unique uint64
	// in is the request, or for a write what comes before its data.
	in  []byte
	out []byte
	// size is how long the chain says that the request is.
	size, room int
	vectors    [][]byte
	scratch
}

// read copies what is to be looked at out of guest memory.
func (r *request) read(chain *virtqueue.Chain) error {
	r.chain = chain
	r.size, r.room = virtqueue.Size(chain.Readable), virtqueue.Size(chain.Writable)
	if r.size < inHeaderSize {
		return fmt.Errorf("%w: %d bytes", errShort, r.size)
	}
	var header [inHeaderSize]byte
	virtqueue.CopyOut(header[:], chain.Readable, 0)
	r.opcode = binary.LittleEndian.Uint32(header[4:])
	r.unique = binary.LittleEndian.Uint64(header[8:])
	want := r.size
	if r.opcode == opWrite {
		want = min(want, ioSize)
	}
	if want > maxInput {
		// Answered as too long.
		r.in = grow(r.in, 0)
		return nil
	}
	r.in = grow(r.in, want)
	virtqueue.CopyOut(r.in, chain.Readable, 0)
	// The guest can have changed it since.
	copy(r.in, header[:])
	return nil
}

// slow says whether the request is one that may take long by its nature.
func (r *request) slow() bool {
	switch r.opcode {
	case opFsync, opFsyncDir, opSyncFS, opFallocate, opCopyFileRange:
		return true
	default:
		return false
	}
}

// large says whether the request moves much data.
func (r *request) large() bool {
	switch r.opcode {
	case opRead:
		return r.room >= largeTransfer
	case opWrite:
		return r.size >= largeTransfer
	default:
		return false
	}
}

// transfers says whether the request is a read or a write.
func (r *request) transfers() bool { return r.opcode == opRead || r.opcode == opWrite }

// waits says whether the request may wait for another process, for ever.
func (r *request) waits(s *session) bool {
	switch r.opcode {
	case opSetLockWait:
		return len(r.in) > 0
	case opRead:
		return len(r.in) >= ioSize && s.teller != nil && s.teller.IsEvents(binary.LittleEndian.Uint64(r.in[inHeaderSize:]))
	default:
		return false
	}
}

// shrink lets go of large buffers, and of guest memory.
func (r *request) shrink() {
	r.chain = nil
	clear(r.vectors[:cap(r.vectors)])
	if cap(r.in) > keptBuffer {
		r.in = nil
	}
	if cap(r.out) > keptBuffer {
		r.out = nil
	}
}

// grow returns a slice of n bytes, b's if it has them.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, max(n, 4096))
	}
	return b[:n]
}

// section appends n bytes of buffers to dst, from offset on, or what there is.
func section(dst, buffers [][]byte, offset, n int) [][]byte {
	for _, b := range buffers {
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		b = b[offset:]
		offset = 0
		if len(b) >= n {
			return append(dst, b[:n:n])
		}
		dst = append(dst, b)
		n -= len(b)
	}
	return dst
}
