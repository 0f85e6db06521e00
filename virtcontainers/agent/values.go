package agent

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"kata-runtime/virtcontainers/agent/plain"
)

// decode sets the values of an answer, and returns an error that wraps plain.ErrFormat
// for anything that package reader does not make. What it makes of an answer takes no
// more memory than one has with as many fields as the method lets it have.
func decode(m plain.Method, values []byte, answer protoreflect.Message) error {
	if len(values) > m.MaxLength() {
		return fmt.Errorf("the answer to %s: %d bytes: %w", m.Name, len(values), plain.ErrFormat)
	}
	d := decoder{in: values, left: m.Fields, tokens: m.Values}
	d.message(m.Answer, answer)
	if d.failed || len(d.in) > 0 {
		return fmt.Errorf("the answer to %s: %d bytes: %w", m.Name, len(values), plain.ErrFormat)
	}
	return nil
}

type decoder struct {
	in     []byte
	left   int // elements of lists that may still come
	tokens int // values that a document may have
	failed bool
}

func (d *decoder) message(fields []plain.Field, into protoreflect.Message) {
	known := into.Descriptor().Fields()
	for _, f := range fields {
		field := known.ByNumber(protoreflect.FieldNumber(f.Number))
		switch f.Kind {
		case plain.Texts, plain.Parts:
			d.list(f, into.Mutable(field).List())
		default:
			into.Set(field, d.value(f.Kind))
		}
	}
}

func (d *decoder) list(f plain.Field, into protoreflect.List) {
	for range d.length(1) {
		if d.left--; d.left < 0 || d.failed {
			d.failed = true
			return
		}
		if f.Kind == plain.Texts {
			into.Append(d.value(plain.Text))
			continue
		}
		part := into.NewElement()
		d.message(f.Parts, part.Message())
		into.Append(part)
	}
}

func (d *decoder) value(kind plain.Kind) protoreflect.Value {
	switch kind {
	case plain.Uint32:
		return protoreflect.ValueOfUint32(uint32(d.number(math.MaxUint32)))
	case plain.Int32:
		return protoreflect.ValueOfInt32(int32(uint32(d.number(math.MaxUint32))))
	case plain.Enum:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(uint32(d.number(math.MaxUint32)))))
	case plain.Uint64:
		return protoreflect.ValueOfUint64(d.number(math.MaxUint64))
	case plain.Int64:
		return protoreflect.ValueOfInt64(int64(d.number(math.MaxUint64)))
	case plain.Bool:
		return protoreflect.ValueOfBool(d.number(1) == 1)
	case plain.Double:
		return protoreflect.ValueOfFloat64(math.Float64frombits(d.number(math.MaxUint64)))
	case plain.Document:
		return protoreflect.ValueOfBytes(d.document())
	default: // Text
		text := d.text()
		d.failed = d.failed || !utf8.Valid(text)
		return protoreflect.ValueOfString(string(text))
	}
}

// number takes a number that is no more than most.
func (d *decoder) number(most uint64) uint64 {
	if d.failed || len(d.in) < 8 {
		d.failed = true
		return 0
	}
	n := binary.LittleEndian.Uint64(d.in)
	d.in = d.in[8:]
	d.failed = n > most
	return min(n, most)
}

// length takes the length of what has at least size bytes for each of its parts.
func (d *decoder) length(size int) int {
	if d.failed || len(d.in) < 4 {
		d.failed = true
		return 0
	}
	n := binary.LittleEndian.Uint32(d.in)
	d.in = d.in[4:]
	if uint64(n) > uint64(len(d.in)/size) {
		d.failed = true
		return 0
	}
	return int(n)
}

func (d *decoder) text() []byte {
	n := d.length(1)
	if d.failed {
		return nil
	}
	text := d.in[:n:n]
	d.in = d.in[n:]
	return text
}
