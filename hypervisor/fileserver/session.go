package fileserver

import (
	"encoding/binary"
	"io"
	"log"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kata-runtime/hypervisor/virtio/virtqueue"
)

// maxVectors is the kernel's IOV_MAX.
const maxVectors = 1024

// session answers the requests of one guest.
type session struct {
	files    fuse.RawFileSystem
	teller   teller // nil for none
	protocol *fuse.ProtocolServer
	// requests are counted by opcode, in the last place those without one.
	requests [64]atomic.Uint64
}

// newSession serves files, whose reads are results with Readv, which read later: they get
// no buffer.
func newSession(files fuse.RawFileSystem, options fuse.MountOptions) *session {
	// What a guest does wrong is no line in a log of the host's.
	options.Logger = log.New(io.Discard, "", 0)
	options.MaxWrite = maxTransfer
	s := &session{files: files, protocol: fuse.NewProtocolServer(files, &options)}
	s.teller, _ = files.(teller)
	return s
}

// carryOut carries out the request, writes the reply to guest memory, and returns
// how many bytes that are. An error is that of guest memory.
func (w *worker) carryOut() (uint32, error) {
	s := w.queue.device.session
	s.count(w.opcode)
	r := &w.request
	switch {
	case len(r.in) == 0:
		return r.fail(fuse.Status(syscall.E2BIG))
	case r.waits(s):
		// As many wait as may. Workers that waited here could be all that there are,
		// and nobody would take the request that gives up the lock.
		return r.fail(fuse.Status(syscall.ENOLCK))
	case r.opcode == opRead && len(r.in) >= ioSize && r.room > outHeaderSize:
		return s.read(r)
	case r.opcode == opWrite && len(r.in) >= ioSize:
		return s.write(r)
	case r.opcode == opWrite:
		return r.fail(fuse.EINVAL)
	case r.opcode == opSyncFS:
		if files, ok := s.files.(syncer); ok {
			return r.fail(files.SyncFS(r.inHeader().NodeId))
		}
	case r.opcode == opInit:
		s.reset()
	}
	if written, done, err := s.direct(r); done {
		return written, err
	}
	room := min(r.room, maxTransfer+4096)
	r.out = grow(r.out, room)
	n := s.answer(r.in, r.out)
	var written int
	err := guard(func() error {
		written = virtqueue.Copy(r.chain.Writable, 0, r.out[:n])
		return nil
	})
	return uint32(written), err
}

func (s *session) count(opcode uint32) {
	s.requests[min(int(opcode), len(s.requests)-1)].Add(1)
}

// total is how many requests there were.
func (s *session) total() (sum uint64) {
	for i := range s.requests {
		sum += s.requests[i].Load()
	}
	return sum
}

// answer lets go-fuse answer a request, from private memory to private memory.
func (s *session) answer(in, out []byte) int {
	n, status := s.protocol.HandleRequest([][]byte{in}, [][]byte{out})
	if n > 0 || status.Ok() || len(out) < outHeaderSize {
		return n
	}
	putHeader(out, outHeaderSize, status, binary.LittleEndian.Uint64(in[8:]))
	return outHeaderSize
}

// teller is a file system that tells the guest of changes: the read of a certain file
// waits for them.
type teller interface {
	IsEvents(fh uint64) bool
	ReadEvents(size uint32) ([]byte, fuse.Status)
}

// reply answers a request that is to wait.
func (s *session) reply(in []byte) []byte {
	if opcode := binary.LittleEndian.Uint32(in[4:]); opcode == opRead {
		s.count(opRead)
		text, status := s.teller.ReadEvents(binary.LittleEndian.Uint32(in[56:]))
		out := make([]byte, outHeaderSize, outHeaderSize+len(text))
		putHeader(out, outHeaderSize+len(text), status, binary.LittleEndian.Uint64(in[8:]))
		return append(out, text...)
	}
	s.count(opSetLockWait)
	out := make([]byte, outHeaderSize)
	return out[:s.answer(in, out)]
}

// putHeader writes a reply's header.
func putHeader(out []byte, size int, status fuse.Status, unique uint64) {
	binary.LittleEndian.PutUint32(out, uint32(size))
	binary.LittleEndian.PutUint32(out[4:], uint32(-int32(status)))
	binary.LittleEndian.PutUint64(out[8:], unique)
}

// finish writes a reply's header, of a reply with size bytes of data behind it, and
// more of its data.
func (r *request) finish(status fuse.Status, size int, more []byte) (uint32, error) {
	var header [outHeaderSize]byte
	total := outHeaderSize + size + len(more)
	putHeader(header[:], total, status, r.unique)
	err := guard(func() error {
		virtqueue.Copy(r.chain.Writable, 0, header[:])
		virtqueue.Copy(r.chain.Writable, outHeaderSize, more)
		return nil
	})
	return uint32(min(total, r.room)), err
}

func (r *request) fail(status fuse.Status) (uint32, error) { return r.finish(status, 0, nil) }

// inHeader is what go-fuse calls so.
func (r *request) inHeader() fuse.InHeader {
	var h fuse.InHeader
	b := r.in
	h.Length, h.Opcode = binary.LittleEndian.Uint32(b), r.opcode
	h.Unique, h.NodeId = r.unique, binary.LittleEndian.Uint64(b[16:])
	h.Uid, h.Gid = binary.LittleEndian.Uint32(b[24:]), binary.LittleEndian.Uint32(b[28:])
	h.Pid = binary.LittleEndian.Uint32(b[32:])
	return h
}

// vectored is what the results of go-fuse's that read a file implement.
type vectored interface {
	Readv(dst [][]byte) (int, fuse.Status)
}

// read reads from the file straight to guest memory.
func (s *session) read(r *request) (uint32, error) {
	b := r.in
	in := fuse.ReadIn{
		InHeader: r.inHeader(),
		Fh:       binary.LittleEndian.Uint64(b[40:]), Offset: binary.LittleEndian.Uint64(b[48:]),
		Size: binary.LittleEndian.Uint32(b[56:]), ReadFlags: binary.LittleEndian.Uint32(b[60:]),
		LockOwner: binary.LittleEndian.Uint64(b[64:]), Flags: binary.LittleEndian.Uint32(b[72:]),
	}
	in.Size = uint32(min(int(in.Size), r.room-outHeaderSize, maxTransfer))
	result, status := s.files.Read(nil, &in, nil)
	if !status.Ok() {
		return r.fail(status)
	}
	if result == nil {
		return r.finish(fuse.OK, 0, nil)
	}
	defer result.Done()
	direct, ok := result.(vectored)
	if !ok {
		return r.fail(fuse.ENOSYS)
	}
	r.vectors = section(r.vectors[:0], r.chain.Writable, outHeaderSize, int(in.Size))
	if len(r.vectors) > maxVectors {
		return r.fail(fuse.EINVAL)
	}
	n, status := direct.Readv(r.vectors)
	if !status.Ok() {
		return r.fail(status)
	}
	return r.finish(fuse.OK, n, nil)
}

// write writes to the file straight from guest memory.
func (s *session) write(r *request) (uint32, error) {
	b := r.in
	in := fuse.WriteIn{
		InHeader: r.inHeader(),
		Fh:       binary.LittleEndian.Uint64(b[40:]), Offset: binary.LittleEndian.Uint64(b[48:]),
		Size: binary.LittleEndian.Uint32(b[56:]), WriteFlags: binary.LittleEndian.Uint32(b[60:]),
		LockOwner: binary.LittleEndian.Uint64(b[64:]), Flags: binary.LittleEndian.Uint32(b[72:]),
	}
	if int(in.Size) != r.size-ioSize || in.Size > maxTransfer || r.room < outHeaderSize+writeOutSize {
		return r.fail(fuse.EINVAL)
	}
	r.vectors = section(r.vectors[:0], r.chain.Readable, ioSize, int(in.Size))
	if len(r.vectors) > maxVectors {
		return r.fail(fuse.EINVAL)
	}
	written, status := s.files.Writev(nil, &in, r.vectors)
	if !status.Ok() {
		return r.fail(status)
	}
	var out [writeOutSize]byte
	binary.LittleEndian.PutUint32(out[:], written)
	return r.finish(fuse.OK, 0, out[:])
}
