package agent

import (
	"encoding/json"
	"math"
	"strconv"

	"kata-runtime/virtcontainers/agent/plain"
)

// document writes the JSON document that values stand for.
func (d *decoder) document() []byte {
	w := writer{decoder: d, left: d.tokens}
	if d.number(plain.TokenEnd) != plain.TokenObject {
		d.failed = true
		return nil
	}
	w.value(plain.TokenObject, plain.MaxDepth)
	w.failed = w.failed || len(w.out) > plain.MaxDocument
	return w.out
}

type writer struct {
	*decoder
	out  []byte
	left int // values that may still come
}

// value writes the value that begins with a token.
func (w *writer) value(token uint64, depth int) {
	if w.left--; w.left < 0 || len(w.out) > plain.MaxDocument {
		w.failed = true
	}
	if w.failed {
		return
	}
	switch token {
	case plain.TokenObject, plain.TokenArray:
		w.members(token == plain.TokenObject, depth)
	case plain.TokenText:
		w.string()
	case plain.TokenUnsigned:
		w.out = strconv.AppendUint(w.out, w.number(math.MaxUint64), 10)
	case plain.TokenSigned:
		w.out = strconv.AppendInt(w.out, int64(w.number(math.MaxUint64)), 10)
	case plain.TokenFloat:
		w.marshal(math.Float64frombits(w.number(math.MaxUint64)))
	case plain.TokenTrue, plain.TokenFalse:
		w.out = strconv.AppendBool(w.out, token == plain.TokenTrue)
	case plain.TokenNull:
		w.out = append(w.out, "null"...)
	default:
		w.failed = true
	}
}

func (w *writer) members(object bool, depth int) {
	if depth == 0 {
		w.failed = true
		return
	}
	begin, end := byte('['), byte(']')
	if object {
		begin, end = '{', '}'
	}
	w.out = append(w.out, begin)
	for first := true; ; first = false {
		token := w.number(plain.TokenEnd)
		if w.failed || token == plain.TokenEnd {
			break
		}
		if !first {
			w.out = append(w.out, ',')
		}
		if object {
			if token != plain.TokenKey {
				w.failed = true
				return
			}
			w.string()
			w.out = append(w.out, ':')
			token = w.number(plain.TokenEnd)
		}
		w.value(token, depth-1)
	}
	w.out = append(w.out, end)
}

// string writes a text, of which each byte can take six.
func (w *writer) string() {
	text := w.decoder.value(plain.Text).String()
	if len(text) > plain.MaxDocument-len(w.out) {
		w.failed = true
		return
	}
	w.marshal(text)
}

func (w *writer) marshal(value any) {
	text, err := json.Marshal(value)
	w.failed = w.failed || err != nil
	w.out = append(w.out, text...)
}
