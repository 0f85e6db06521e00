package reader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"kata-runtime/virtcontainers/agent/plain"
)

// Errors of Encode: what the guest has sent is no answer.
var (
	errMany = errors.New("more fields than it may have")
	errLong = errors.New("longer than it may be")
	errText = errors.New("a text that is no UTF-8")
	errKind = errors.New("a field of another type")
)

// Encode returns the plain values of an answer that the guest has encoded as a protocol
// buffer. What the method does not know is left away.
func Encode(m plain.Method, message []byte) ([]byte, error) {
	if len(message) > m.Bytes {
		return nil, fmt.Errorf("the answer to %s: %d bytes, %w", m.Name, len(message), errLong)
	}
	e := encoder{left: m.Fields, values: m.Values}
	if err := e.message(m.Answer, message); err != nil {
		return nil, fmt.Errorf("the answer to %s: %w", m.Name, err)
	}
	return e.out, nil
}

type encoder struct {
	out  []byte
	left int // fields that may still come
	// values may still come of a document.
	values int
}

// message appends the values of a message. It looks through it once for each value,
// so that nothing of it is kept but those.
func (e *encoder) message(fields []plain.Field, message []byte) error {
	err := each(message, func(field) error {
		if e.left--; e.left < 0 {
			return errMany
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range fields {
		switch f.Kind {
		case plain.Texts, plain.Parts:
			err = e.list(f, message)
		default:
			err = e.value(f, message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// value appends a single value: the last one of its number counts, none is zero.
func (e *encoder) value(f plain.Field, message []byte) error {
	var last field
	err := each(message, func(found field) error {
		if found.number != f.Number {
			return nil
		}
		if found.kind != wire(f.Kind) {
			return fmt.Errorf("%d: %w", f.Number, errKind)
		}
		last = found
		return nil
	})
	if err != nil {
		return err
	}
	switch f.Kind {
	case plain.Document:
		return e.document(last.content)
	case plain.Text:
		return e.text(last.content)
	default:
	}
	e.number(cut(f.Kind, last.value))
	return nil
}

// list appends how many values of a number there are, and them.
func (e *encoder) list(f plain.Field, message []byte) error {
	at, count := len(e.out), uint32(0)
	e.out = append(e.out, 0, 0, 0, 0)
	err := each(message, func(found field) error {
		if found.number != f.Number {
			return nil
		}
		if found.kind != wireBytes {
			return fmt.Errorf("%d: %w", f.Number, errKind)
		}
		count++
		if f.Kind == plain.Texts {
			return e.text(found.content)
		}
		return e.message(f.Parts, found.content)
	})
	binary.LittleEndian.PutUint32(e.out[at:], count)
	return err
}

func (e *encoder) number(n uint64) { e.out = binary.LittleEndian.AppendUint64(e.out, n) }

func (e *encoder) text(content []byte) error {
	if !utf8.Valid(content) {
		return errText
	}
	e.out = binary.LittleEndian.AppendUint32(e.out, uint32(len(content)))
	e.out = append(e.out, content...)
	return nil
}

// wire is the type of a single value in a protocol buffer.
func wire(k plain.Kind) byte {
	switch k {
	case plain.Double:
		return wireFixed64
	case plain.Text, plain.Document, plain.Texts, plain.Parts:
		return wireBytes
	default:
		return wireVarint
	}
}

// cut makes a number one of the kind, as a decoder of protocol buffers does.
func cut(k plain.Kind, n uint64) uint64 {
	switch k {
	case plain.Uint32, plain.Int32, plain.Enum:
		return n & math.MaxUint32
	case plain.Bool:
		return min(n, 1)
	default:
		return n
	}
}
