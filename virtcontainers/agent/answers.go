package agent

import (
	"fmt"
	"path"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/agent/plain"
)

// answer is the most that an answer to a call may have: see plain.Method.
type answer struct{ bytes, fields int }

// boundOf returns what an answer to a method may have.
func boundOf(method string) answer {
	methods := plain.Methods()
	least := answer{methods[0].Bytes, methods[0].Fields}
	for _, m := range methods {
		if m.Name == method {
			return answer{m.Bytes, m.Fields}
		}
		if m.Bytes < least.bytes {
			least = answer{m.Bytes, m.Fields}
		}
	}
	return least
}

// check says what is wrong with an answer, before anybody decodes it, and leaves away
// what nobody reads.
func check(fullMethod string, response *ttrpc.Response) error {
	method := path.Base(fullMethod)
	bound := boundOf(method)
	if n := len(response.GetPayload()); n > bound.bytes {
		return fmt.Errorf("%w: an answer of %d bytes to %s, which has %d at most", ErrMalformed, n, method, bound.bytes)
	}
	if response.GetStatus() != nil {
		response.Status.Details = nil
	}
	service := protocol.File_agent_proto.Services().ByName("Agent")
	known := service.Methods().ByName(protoreflect.Name(method))
	if known == nil {
		return fmt.Errorf("%w: an answer to %q, which is no call", ErrMalformed, method)
	}
	if _, err := countFields(response.GetPayload(), known.Output(), bound.fields); err != nil {
		return fmt.Errorf("%w: the answer to %s: %w", ErrMalformed, method, err)
	}
	return nil
}

// countFields returns how many fields there are in an encoded message and those within
// it, and an error as soon as they are more than most.
func countFields(data []byte, message protoreflect.MessageDescriptor, most int) (int, error) {
	count := 0
	for len(data) > 0 {
		if count++; count > most {
			return count, fmt.Errorf("more than %d fields", most)
		}
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return count, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, data[n:])
		if size < 0 {
			return count, protowire.ParseError(size)
		}
		value := data[n : n+size]
		data = data[n+size:]
		field := message.Fields().ByNumber(number)
		if kind != protowire.BytesType || field == nil || field.Kind() != protoreflect.MessageKind {
			continue
		}
		inner, _ := protowire.ConsumeBytes(value)
		within, err := countFields(inner, field.Message(), most-count)
		if err != nil {
			return count, err
		}
		count += within
	}
	return count, nil
}
