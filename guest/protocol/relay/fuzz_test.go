package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// pipeEnd is a Local in memory: what the program says, and what it was told.
type pipeEnd struct {
	says io.Reader

	mu     sync.Mutex
	told   bytes.Buffer
	closed chan struct{}
	once   sync.Once
	few    bool // it takes no more than a few bytes
}

func (p *pipeEnd) Read(b []byte) (int, error) {
	n, err := p.says.Read(b)
	if err == io.EOF && p.few { // it stays, and says nothing
		<-p.closed
	}
	return n, err
}

func (p *pipeEnd) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.few && p.told.Len() > 10 {
		return 0, io.ErrClosedPipe
	}
	return p.told.Write(b)
}

func (p *pipeEnd) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
func (p *pipeEnd) CloseRead() error { return p.Close() }
func (*pipeEnd) CloseWrite() error  { return nil }

// FuzzCopy lets the other side of a relay send anything, and hang up. Copy ends then,
// has passed on no more than whole frames had, and has sent what can be read.
func FuzzCopy(f *testing.F) {
	frame := func(text string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	f.Add(frame("hello"), []byte("answer"), false)
	f.Add(append(frame("a"), 0, 0, 0, 0), []byte{}, true)
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, []byte("x"), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}, []byte("x"), true)
	f.Add([]byte{0, 1, 0, 0, 1}, []byte("x"), false)
	f.Fuzz(func(t *testing.T, peerSays, programSays []byte, few bool) {
		defer time.AfterFunc(10*time.Second, func() { panic("it hangs") }).Stop()
		ours, theirs := net.Pipe()
		local := &pipeEnd{says: bytes.NewReader(programSays), closed: make(chan struct{}), few: few}
		sent := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(theirs)
			sent <- all
		}()
		go func() {
			_, _ = theirs.Write(peerSays) // fails where Copy has had enough
			theirs.Close()
		}()
		_ = Copy(context.Background(), local, ours)
		<-local.closed
		frames, whole := data(t, peerSays)
		if told := local.told.Bytes(); !bytes.HasPrefix(frames, told) {
			t.Errorf("the program was told %q, of %q (%t)", told, frames, whole)
		}
		if got, _ := data(t, <-sent); !bytes.HasPrefix(programSays, got) {
			t.Errorf("the program said %q, and this was sent: %q", programSays, got)
		}
	})
}

// data is what frames carry, up to what is none, and whether all are.
func data(t *testing.T, frames []byte) (carried []byte, whole bool) {
	t.Helper()
	for len(frames) >= frameHeader {
		n := binary.BigEndian.Uint32(frames)
		frames = frames[frameHeader:]
		if n == endOfData || n == endOfWish {
			continue
		}
		if n > maxFrame {
			return carried, false
		}
		k := min(int(n), len(frames))
		carried, frames = append(carried, frames[:k]...), frames[k:]
	}
	return carried, len(frames) == 0
}

// FuzzDatagrams: what is read again is what was written, and the buffer grows to
// no more than the largest.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, input []byte) {
		in := bytes.NewReader(input)
		var buffer []byte
		var again bytes.Buffer
		for {
			datagram, err := ReadDatagram(in, buffer)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrMalformed) {
					t.Errorf("%v", err)
				}
				break
			}
			buffer = datagram
			if cap(buffer) > MaxDatagram+1 {
				t.Errorf("a buffer of %d bytes", cap(buffer))
			}
			if err := WriteDatagram(&again, datagram); err != nil {
				t.Error(err)
			}
		}
		if !bytes.HasPrefix(input, again.Bytes()) {
			t.Errorf("%x became %x", input, again.Bytes())
		}
	})
}
