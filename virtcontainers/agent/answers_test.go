package agent

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/guest/protocol"
)

// Each answer that says something has a bound of its own, and those that say nothing
// have next to no room.
func TestEveryAnswerIsBounded(t *testing.T) {
	methods := protocol.File_agent_proto.Services().ByName("Agent").Methods()
	least := boundOf("")
	for i := range methods.Len() {
		method := methods.Get(i)
		name := string(method.Name())
		content := method.Output().Fields()
		small := true // it has nothing that can be long
		for j := range content.Len() {
			f := content.Get(j)
			small = small && !f.IsList() && f.Kind() != protoreflect.StringKind && f.Kind() != protoreflect.BytesKind
		}
		if got := boundOf(name); small != (got == least) {
			t.Errorf("%s: %+v, with %d fields", name, got, content.Len())
		}
	}
}

// fields is a message of n empty ones with the number 1.
func fields(n int) []byte { return bytes.Repeat([]byte{1<<3 | 2, 0}, n) }

func TestAnswersThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		method  string
		payload []byte
		good    bool
	}{
		{"StartContainer", nil, true},
		{"StartContainer", make([]byte, 257), false},
		{"WaitProcess", bytes.Repeat([]byte{1 << 3, 1}, 5), true},
		{"WaitProcess", bytes.Repeat([]byte{1 << 3, 1}, 17), false},
		{"NextOOM", append([]byte{1<<3 | 2, 4}, "abcd"...), true},
		{"NextOOM", []byte{1<<3 | 2, 5, 'a'}, false},
		{"ListProcesses", fields(1 << 18), true},
		{"ListProcesses", fields(1<<18 + 1), false},
		// Within a message of the one list are the fields of the other.
		{"ListProcesses", append([]byte{1<<3 | 2, 2, 1 << 3, 1}, fields(1<<18-1)...), false},
		{"Metrics", fields(1<<17 + 1), false},
		{"Hello", append([]byte{5<<3 | 2, 0}, bytes.Repeat([]byte{5<<3 | 2, 0}, 128)...), false},
		{"StatsContainer", append([]byte{1<<3 | 2, 0x80, 0x80, 0x40}, make([]byte, 1<<20)...), true},
		{"StatsContainer", make([]byte, maxFrame+1), false},
		{"Unheard", nil, false},
	} {
		err := check("/kata.Agent/"+c.method, &ttrpc.Response{Payload: c.payload})
		if (err == nil) != c.good || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s, %d bytes: %v", c.method, len(c.payload), err)
		}
	}
}

func TestDetailsOfAnErrorAreLeftAway(t *testing.T) {
	r := &ttrpc.Response{Status: &spb.Status{Message: "no", Details: make([]*anypb.Any, 3)}}
	if err := check("/kata.Agent/StartContainer", r); err != nil || r.Status.Details != nil || r.Status.Message != "no" {
		t.Errorf("%v, %v", r.Status, err)
	}
}

// talkative is an agent that answers a call which has nothing to say with much.
type talkative struct{ agentOf }

func (talkative) NextOOM(context.Context, *protocol.Empty) (*protocol.OOMEvent, error) {
	return &protocol.OOMEvent{ContainerId: strings.Repeat("x", 1<<20)}, nil
}

// An answer that cannot be one ends the connection.
func TestATalkativeAgent(t *testing.T) {
	where, server, served := serve(t, talkative{})
	defer func() { _ = server.Close(); <-served }()
	client, err := Connect(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.NextOOM(t.Context(), &protocol.Empty{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a long name: %v", err)
	}
	if _, err := client.Metrics(t.Context(), &protocol.MetricsRequest{}); err == nil {
		t.Error("the connection goes on")
	}
}

// countMessages returns how many messages a decoded one has within it.
func countMessages(m protoreflect.Message) int {
	count := 0
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Kind() == protoreflect.MessageKind && f.IsList() {
			for i := range v.List().Len() {
				count += 1 + countMessages(v.List().Get(i).Message())
			}
		}
		return true
	})
	return count
}

// FuzzAnswer: what is let through has no more fields than it may when it is decoded.
func FuzzAnswer(f *testing.F) {
	f.Add(uint8(0), fields(3))
	f.Add(uint8(1), append([]byte{1<<3 | 2, 4}, "abcd"...))
	f.Add(uint8(11), []byte{1<<3 | 3, 1<<3 | 4, 0x80})
	methods := protocol.File_agent_proto.Services().ByName("Agent").Methods()
	f.Fuzz(func(t *testing.T, which uint8, payload []byte) {
		method := methods.Get(int(which) % methods.Len())
		if check("/kata.Agent/"+string(method.Name()), &ttrpc.Response{Payload: payload}) != nil {
			return
		}
		output := dynamicpb.NewMessage(method.Output())
		if proto.Unmarshal(payload, output) != nil {
			return
		}
		if n := countMessages(output.ProtoReflect()); n > boundOf(string(method.Name())).fields {
			t.Errorf("%s: %d messages of %d bytes", method.Name(), n, len(payload))
		}
	})
}
