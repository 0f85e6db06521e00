package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"kata-runtime/virtcontainers/agent/plain"
	"kata-runtime/virtcontainers/agent/reader"
)

// FuzzEncode: what the process passes on of an answer is what the protocol's own decoder
// makes of it.
func FuzzEncode(f *testing.F) {
	f.Add(uint8(0), []byte{1 << 3, 2, 2<<3 | 2, 1, 'a', 5<<3 | 2, 1, 'b', 5<<3 | 2, 0, 6 << 3, 7})
	f.Add(uint8(11), append([]byte{1<<3 | 2, byte(len(document)) | 0x80, 1}, document...))
	f.Add(uint8(12), []byte{1<<3 | 2, 5, 1 << 3, 3, 5<<3 | 2, 1, 'b'})
	f.Add(uint8(15), []byte{1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 60<<3&0x7f | 0x80, 3, 4})
	f.Add(uint8(21), []byte{2<<3 | 2, 4, 1<<3 | 2, 2, 1 << 3, 3, 1<<3 | 2, 9, 2<<3 | 1, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, which uint8, message []byte) {
		all := plain.Methods()
		i := int(which) % len(all)
		values, err := reader.Encode(all[i], message)
		if err != nil {
			return
		}
		got, want := dynamicpb.NewMessage(methods().Get(i).Output()), dynamicpb.NewMessage(methods().Get(i).Output())
		if err := decode(all[i], values, got); err != nil {
			t.Fatalf("%s: %v", all[i].Name, err)
		}
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(message, want); err != nil {
			return
		}
		if all[i].Values > 0 {
			if document := want.Get(want.Descriptor().Fields().ByNumber(1)).Bytes(); !sameJSON(got.Get(got.Descriptor().Fields().ByNumber(1)).Bytes(), document) {
				t.Errorf("%s became %v", document, got)
			}
			return
		}
		// As bytes: a number may be none.
		deterministic := proto.MarshalOptions{Deterministic: true}
		gotBytes, err1 := deterministic.Marshal(got)
		wantBytes, err2 := deterministic.Marshal(want)
		if err1 != nil || err2 != nil || !bytes.Equal(gotBytes, wantBytes) {
			t.Errorf("%s says %v, the protocol %v", all[i].Name, got, want)
		}
	})
}

// sameJSON tells whether two documents mean the same.
func sameJSON(a, b []byte) bool {
	var first, second any
	if json.Unmarshal(a, &first) != nil || json.Unmarshal(b, &second) != nil {
		return false
	}
	return reflect.DeepEqual(first, second)
}

// FuzzValues: what a reader says is refused, or is an answer that has no more parts than
// the agent may send.
func FuzzValues(f *testing.F) {
	f.Add(uint8(12), []byte{1, 0, 0, 0})
	f.Add(uint8(17), []byte{2, 0, 0, 0, 'a', 'b'})
	f.Add(uint8(21), make([]byte, 8))
	f.Fuzz(func(t *testing.T, which uint8, values []byte) {
		all := plain.Methods()
		i := int(which) % len(all)
		answer := dynamicpb.NewMessage(methods().Get(i).Output())
		if err := decode(all[i], values, answer); err != nil {
			if !errors.Is(err, plain.ErrFormat) {
				t.Error(err)
			}
			return
		}
		if n := countMessages(answer.ProtoReflect()); n > all[i].Fields {
			t.Errorf("%s: %d messages of %d bytes", all[i].Name, n, len(values))
		}
	})
}
