package plain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrFormat says that the other side sent what is no message.
var ErrFormat = errors.New("is no message between a pod's owner and its reader")

const (
	// HeadSize is that of every head, in bytes.
	HeadSize = 24
	// MaxRequest is the longest message that a request may have: ttrpc's own bound, less
	// what goes around it.
	MaxRequest = 4<<20 - 1<<10
	// MaxText is the longest text of an error.
	MaxText = 8 << 10
	// Patience bounds how long the guest may take for a part of a message. A healthy
	// kernel takes most requests before the agent reads them, and the agent reads a large
	// one at once, also on a slow machine. It is less than callers wait for an answer:
	// they hear why there will be none.
	Patience = 10 * time.Second
	// Handover is the byte with which the agent's connection travels, first of all.
	Handover = 'c'
)

// Cancel is the method of a request that gives up another one, whose ID it has.
const Cancel = 1<<16 - 1

// Request is the head of a request.
type Request struct {
	// ID is not 0, and larger than that of the one before.
	ID uint32
	// Method is its place in Methods.
	Method int
	// Timeout is how long the caller will wait; 0: no bound.
	Timeout time.Duration
	// Length is that of the message behind the head.
	Length int
}

// Encode returns the head's bytes.
func (r Request) Encode() []byte {
	b := make([]byte, 0, HeadSize)
	b = binary.LittleEndian.AppendUint32(b, r.ID)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Method))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Timeout))
	return binary.LittleEndian.AppendUint64(b, uint64(r.Length))
}

// DecodeRequest reads the head of a request.
func DecodeRequest(b *[HeadSize]byte) (Request, error) {
	r := Request{
		ID: binary.LittleEndian.Uint32(b[:]), Method: int(binary.LittleEndian.Uint32(b[4:])),
		Timeout: time.Duration(binary.LittleEndian.Uint64(b[8:])),
	}
	length := binary.LittleEndian.Uint64(b[16:])
	if r.ID == 0 || r.ID > MaxID || r.Timeout < 0 || length > MaxRequest || r.Method == Cancel && length > 0 {
		return Request{}, fmt.Errorf("request %d of %d bytes: %w", r.ID, length, ErrFormat)
	}
	r.Length = int(length)
	return r, nil
}

// MaxID is the last request's: ttrpc counts its streams in twos.
const MaxID = 1<<31 - 1

// Why a connection has ended: the Status of an Answer with the ID 0.
const (
	EndClosed    = iota + 1 // the guest has hung up
	EndMalformed            // it sent what no agent sends
	EndStalled              // it does not take what it is sent
)

// Answer is the head of an answer.
type Answer struct {
	// ID is the request's. 0: the connection with the guest has ended.
	ID uint32
	// Status is a code of grpc's; 0: what follows are the answer's values, else an
	// error's text.
	Status uint32
	// Length is that of what follows.
	Length int
}

// Encode returns the head's bytes.
func (a Answer) Encode() []byte {
	b := make([]byte, 0, HeadSize)
	b = binary.LittleEndian.AppendUint32(b, a.ID)
	b = binary.LittleEndian.AppendUint32(b, a.Status)
	b = binary.LittleEndian.AppendUint64(b, uint64(a.Length))
	return binary.LittleEndian.AppendUint64(b, 0)
}

// maxStatus is the highest code that grpc has.
const maxStatus = 16

// DecodeAnswer reads the head of an answer. Whoever asked bounds its length further.
func DecodeAnswer(b *[HeadSize]byte) (Answer, error) {
	a := Answer{ID: binary.LittleEndian.Uint32(b[:]), Status: binary.LittleEndian.Uint32(b[4:])}
	length := binary.LittleEndian.Uint64(b[8:])
	switch {
	case a.ID > MaxID, a.Status > maxStatus, length > maxAnswer, binary.LittleEndian.Uint64(b[16:]) != 0,
		a.Status > 0 && length > MaxText, a.ID == 0 && (a.Status < EndClosed || a.Status > EndStalled):
		return Answer{}, fmt.Errorf("answer %d, %d, of %d bytes: %w", a.ID, a.Status, length, ErrFormat)
	}
	a.Length = int(length)
	return a, nil
}
