package fileserver

import (
	"encoding/binary"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kata-runtime/hypervisor/virtio/virtqueue"
)

// FuzzRequest carries out whatever a guest may send, in buffers of any size: the reply
// is no longer than there is room, and says how long it is.
func FuzzRequest(f *testing.F) {
	for opcode := range uint32(60) {
		f.Add(encode(opcode, 1, 1, make([]byte, 64)), uint16(40), uint16(200), uint8(16))
	}
	f.Add(encode(opWrite, 1, 1, append(transfer(0, 3), 1, 2, 3)), uint16(81), uint16(24), uint8(16))
	f.Add(encode(opRead, 1, 1, transfer(0, 1<<31)), uint16(3), uint16(9000), uint8(15))
	files := newFiles(f)
	w := &worker{queue: newQueue(&device{session: newSession(files, fuse.MountOptions{})})}
	f.Fuzz(func(t *testing.T, in []byte, split, room uint16, header uint8) {
		out := make([]byte, room)
		at, first := min(int(split), len(in)), min(int(header), len(out))
		w.chain = virtqueue.Chain{Readable: [][]byte{in[:at], in[at:]}, Writable: [][]byte{out[:first], out[first:]}}
		if err := w.request.read(&w.chain); err != nil {
			return // the end of the machine
		}
		_, _ = w.request.slow(), w.request.large()
		written, err := w.carryOut()
		if err != nil {
			t.Fatal(err)
		}
		if int(written) > len(out) {
			t.Fatalf("%d bytes in %d", written, len(out))
		}
		if written >= outHeaderSize {
			if size := binary.LittleEndian.Uint32(out); size != written {
				t.Errorf("a reply of %d bytes says that it has %d", written, size)
			}
		}
	})
}
