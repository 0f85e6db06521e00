package reader

import (
	"encoding/binary"
	"errors"
)

// Of the wire format of protocol buffers: each field is a varint, its number and type,
// and a value. The format's own package reads the program as it begins, which is not
// there in the jail.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5

	maxNumber = 1<<29 - 1
)

var errWire = errors.New("no protocol buffer")

// field is one of an encoded message.
type field struct {
	number int
	kind   byte
	// value is that of a number, content that of wireBytes.
	value   uint64
	content []byte
}

// each calls f with the fields of a message.
func each(message []byte, f func(field) error) error {
	for len(message) > 0 {
		next, n := consume(message)
		if n == 0 {
			return errWire
		}
		if err := f(next); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

// consume reads a field, and returns how many bytes it has; 0: it is none. Groups, which
// no message of the agent's has, are none.
func consume(b []byte) (f field, size int) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 < 1 || tag>>3 > maxNumber {
		return field{}, 0
	}
	f.number, f.kind = int(tag>>3), byte(tag&7)
	rest := b[n:]
	switch f.kind {
	case wireVarint, wireBytes:
		value, k := binary.Uvarint(rest)
		if k <= 0 {
			return field{}, 0
		}
		if f.kind == wireVarint {
			f.value = value
			return f, n + k
		}
		if value > uint64(len(rest)-k) {
			return field{}, 0
		}
		f.content = rest[k : k+int(value)]
		return f, n + k + int(value)
	case wireFixed64:
		if len(rest) < 8 {
			return field{}, 0
		}
		f.value = binary.LittleEndian.Uint64(rest)
		return f, n + 8
	case wireFixed32:
		if len(rest) < 4 {
			return field{}, 0
		}
		f.value = uint64(binary.LittleEndian.Uint32(rest))
		return f, n + 4
	default:
		return field{}, 0
	}
}

// appendTag appends what begins a field.
func appendTag(b []byte, number int, kind byte) []byte {
	return binary.AppendUvarint(b, uint64(number)<<3|uint64(kind))
}

func appendText(b []byte, number int, text string) []byte {
	b = binary.AppendUvarint(appendTag(b, number, wireBytes), uint64(len(text)))
	return append(b, text...)
}
