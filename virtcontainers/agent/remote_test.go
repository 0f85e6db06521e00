package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/agent/plain"
	"kata-runtime/virtcontainers/agent/reader"
)

// pair returns two connected sockets, which end with the test.
func pair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		conns[i], _ = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return conns[0], conns[1]
}

// reading is a dialer with a reader in this process.
type reading struct {
	Dialer
	socket *net.UnixConn
}

func (r reading) Reader() *net.UnixConn { return r.socket }

// read lets a reader read for a dialer.
func read(t *testing.T, dialer Dialer, patience time.Duration) reading {
	t.Helper()
	ours, theirs := pair(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := reader.Serve(theirs, patience, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("reader: %v", err)
		}
	})
	t.Cleanup(func() {
		ours.Close()
		serving.Wait()
	})
	return reading{dialer, ours}
}

// mouth is a dialer of a guest that a test writes for, and reads.
type mouth struct{ net.Conn }

func (m mouth) Dial(context.Context, uint32) (net.Conn, error) { return m.Conn, nil }

func methods() protoreflect.MethodDescriptors {
	return protocol.File_agent_proto.Services().ByName("Agent").Methods()
}

// The table of what an answer says is the protocol's.
func TestMethodsAreTheProtocols(t *testing.T) {
	kinds := map[protoreflect.Kind]plain.Kind{
		protoreflect.Uint32Kind: plain.Uint32, protoreflect.Int32Kind: plain.Int32, protoreflect.Uint64Kind: plain.Uint64,
		protoreflect.Int64Kind: plain.Int64, protoreflect.BoolKind: plain.Bool, protoreflect.DoubleKind: plain.Double,
		protoreflect.EnumKind: plain.Enum, protoreflect.StringKind: plain.Text, protoreflect.BytesKind: plain.Document,
	}
	var compare func(where string, message protoreflect.MessageDescriptor, fields []plain.Field)
	compare = func(where string, message protoreflect.MessageDescriptor, fields []plain.Field) {
		if message.Fields().Len() != len(fields) {
			t.Errorf("%s has %d values, the protocol %d", where, len(fields), message.Fields().Len())
			return
		}
		for i, f := range fields {
			field := message.Fields().Get(i)
			want, known := kinds[field.Kind()]
			switch {
			case field.Kind() == protoreflect.MessageKind && field.IsList():
				want, known = plain.Parts, true
				compare(where+"."+string(field.Name()), field.Message(), f.Parts)
			case field.IsList() && field.Kind() == protoreflect.StringKind:
				want = plain.Texts
			case field.IsList(), field.IsMap(), field.HasPresence():
				known = false
			}
			if !known || want != f.Kind || int(field.Number()) != f.Number {
				t.Errorf("%s: %+v stands for %v", where, f, field)
			}
		}
	}
	all := plain.Methods()
	if methods().Len() != len(all) {
		t.Fatalf("%d methods, the protocol has %d", len(all), methods().Len())
	}
	for i, m := range all {
		if name := string(methods().Get(i).Name()); name != m.Name {
			t.Errorf("%s is %s", m.Name, name)
		}
		compare(m.Name, methods().Get(i).Output(), m.Answer)
	}
}

// full returns a message in which each field has a value that is no other's.
func full(message protoreflect.MessageDescriptor, next *uint64) *dynamicpb.Message {
	m := dynamicpb.NewMessage(message)
	value := func(field protoreflect.FieldDescriptor) protoreflect.Value {
		*next++
		n := *next
		switch field.Kind() {
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(uint32(n) << 24)
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(-int32(n))
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(1<<63 + n)
		case protoreflect.Int64Kind:
			return protoreflect.ValueOfInt64(-int64(n))
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(float64(n) / 3)
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte(document))
		default:
			return protoreflect.ValueOfString(strings.Repeat("ä", int(n)))
		}
	}
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		switch {
		case field.IsList():
			list := m.Mutable(field).List()
			for range 3 {
				if field.Kind() == protoreflect.MessageKind {
					list.Append(protoreflect.ValueOfMessage(full(field.Message(), next)))
				} else {
					list.Append(value(field))
				}
			}
		default:
			m.Set(field, value(field))
		}
	}
	return m
}

// document is as the agent sends one.
const document = `{"cpu":{"usage":{"total":18446744073709551615,"all":[1,-2,0.25,1e+21],"none":null}},` +
	`"\u003cä\u0001":"\"x\\","yes":true,"no":false,"empty":{},"list":[]}`

// serveAll answers every call, but Hello, with what says returns.
func serveAll(t *testing.T, says func(ctx context.Context, name string) (proto.Message, error)) unixDialer {
	t.Helper()
	where, server, served := serveService(t, func(server *ttrpc.Server) {
		service := &ttrpc.ServiceDesc{Methods: make(map[string]ttrpc.Method)}
		for i := range methods().Len() {
			name := string(methods().Get(i).Name())
			service.Methods[name] = func(ctx context.Context, unmarshal func(any) error) (any, error) {
				request := dynamicpb.NewMessage(methods().Get(i).Input())
				if err := unmarshal(request); err != nil {
					return nil, err
				}
				if name == "Hello" {
					return &protocol.HelloResponse{Version: protocol.Version}, nil
				}
				return says(ctx, name)
			}
		}
		server.RegisterService("kata.guest.v1.Agent", service)
	})
	t.Cleanup(func() { server.Close(); <-served })
	return where
}

// By way of a reader each answer says what the agent has said.
func TestReadAnswers(t *testing.T) {
	var next uint64
	answers := make(map[string]*dynamicpb.Message)
	for i := range methods().Len() {
		answers[string(methods().Get(i).Name())] = full(methods().Get(i).Output(), &next)
	}
	where := serveAll(t, func(_ context.Context, name string) (proto.Message, error) { return answers[name], nil })
	client, err := Connect(t.Context(), read(t, where, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	through, _ := client.link.(calls)
	var asking sync.WaitGroup
	for i := range methods().Len() {
		method := methods().Get(i)
		if method.Name() == "Hello" {
			continue
		}
		asking.Go(func() {
			for range 20 {
				got := dynamicpb.NewMessage(method.Output())
				if err := through.call(t.Context(), string(method.Name()), &protocol.ContainerRequest{ContainerId: strings.Repeat("x", 100_000)}, got); err != nil {
					t.Errorf("%s: %v", method.Name(), err)
				} else if want := answers[string(method.Name())]; !proto.Equal(got, want) {
					t.Errorf("%s says %v, want %v", method.Name(), got, want)
				}
			}
		})
	}
	asking.Wait()
}

// An error has its code and its words; one that takes too many is cut.
func TestReadErrors(t *testing.T) {
	where := serveAll(t, func(_ context.Context, name string) (proto.Message, error) {
		switch name {
		case "StartContainer":
			return nil, status.Error(codes.NotFound, "there is no ä")
		case "PauseContainer":
			return nil, status.Error(codes.Code(77), strings.Repeat("x", 100_000))
		default:
			return &protocol.OOMEvent{ContainerId: strings.Repeat("x", 1<<20)}, nil
		}
	})
	client, err := Connect(t.Context(), read(t, where, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.StartContainer(t.Context(), &protocol.ContainerRequest{}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "there is no ä") {
		t.Errorf("%v", err)
	}
	if _, err := client.PauseContainer(t.Context(), &protocol.ContainerRequest{}); status.Code(err) != codes.Unknown || len(err.Error()) > 2*plain.MaxText {
		t.Errorf("%d bytes", len(err.Error()))
	}
	// A talkative one loses its connection.
	if _, err := client.NextOOM(t.Context(), &protocol.Empty{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a long name: %v", err)
	}
	if _, err := client.SetClock(t.Context(), &protocol.SetClockRequest{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("afterwards: %v", err)
	}
}

// A call ends with its context, others go on, and an answer that comes too late is nobody's.
func TestGiveUpACall(t *testing.T) {
	late := make(chan struct{})
	where := serveAll(t, func(ctx context.Context, name string) (proto.Message, error) {
		if name == "WaitProcess" {
			<-late
			return &protocol.WaitProcessResponse{ExitCode: 1}, nil
		}
		if _, bounded := ctx.Deadline(); bounded != (name == "SetClock") {
			t.Errorf("%s: bounded %v", name, bounded)
		}
		return &protocol.Empty{}, nil
	})
	client, err := Connect(t.Context(), read(t, where, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	gaveUp := errors.New("gave up")
	for range 5 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, gaveUp)
		if _, err := client.WaitProcess(ctx, &protocol.ProcessRequest{}); !errors.Is(err, gaveUp) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.SetClock(ctx, &protocol.SetClockRequest{}); err != nil {
		t.Error(err)
	}
	close(late)
	for range 5 {
		if _, err := client.StartContainer(t.Context(), &protocol.ContainerRequest{}); err != nil {
			t.Error(err)
		}
	}
	through, _ := client.link.(calls)
	if through.mu.Lock(); len(through.pending) != 0 {
		t.Errorf("%d calls are kept", len(through.pending))
	}
	through.mu.Unlock()
}

func TestReaderEndsWithTheFirstMalformedMessage(t *testing.T) {
	for name, says := range map[string][]byte{
		"four gigabytes":     {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0},
		"no type of message": {0, 0, 0, 1, 0, 0, 0, 1, 9, 0, 0},
		"a request":          {0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0},
		"data":               {0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 0},
		"the guest's stream": {0, 0, 0, 1, 0, 0, 0, 2, 2, 0, 0},
		"nobody's stream":    {0, 0, 0, 1, 0, 0, 0, 3, 2, 0, 0},
		"a long answer":      {0, 0x10, 0, 0, 0, 0, 0, 1, 2, 0},
		"no message":         {0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0xff},
		"another type":       {0, 0, 0, 4, 0, 0, 0, 1, 2, 0, 2<<3 | 2, 2, 1<<3 | 2, 0},
		"no words":           {0, 0, 0, 7, 0, 0, 0, 1, 2, 0, 1<<3 | 2, 5, 1 << 3, 2, 2<<3 | 2, 1, 0xff},
		"no text":            {0, 0, 0, 5, 0, 0, 0, 1, 2, 0, 2<<3 | 2, 3, 2<<3 | 2, 1, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			go func() {
				_, _ = theirs.Read(make([]byte, 1<<10)) // the greeting
				_, _ = theirs.Write(says)               // and then it stays silent
			}()
			if _, err := Connect(t.Context(), read(t, mouth{ours}, time.Minute)); !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestReaderEndsForAGuestThatTakesNothing(t *testing.T) {
	ours, theirs := pair(t)
	var answering sync.WaitGroup
	answering.Go(func() {
		if err := answerHello(theirs); err != nil {
			t.Error(err)
		}
	})
	client, err := connect(t.Context(), read(t, mouth{ours}, 200*time.Millisecond), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answering.Wait()
	large := &protocol.CreateContainerRequest{SpecJson: make([]byte, 3<<20)}
	if _, err := client.CreateContainer(t.Context(), large); !errors.Is(err, ErrStalled) {
		t.Errorf("error %v", err)
	}
	if _, err := client.SetClock(t.Context(), &protocol.SetClockRequest{}); !errors.Is(err, ErrStalled) {
		t.Errorf("afterwards: %v", err)
	}
}

// A guest that hangs up, and an owner that does.
func TestEndsOfTheConnection(t *testing.T) {
	ours, theirs := pair(t)
	go func() { _ = answerHello(theirs) }()
	client, err := Connect(t.Context(), read(t, mouth{ours}, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	failures := make(chan error, 1)
	go func() {
		_, err := client.WaitProcess(context.Background(), &protocol.ProcessRequest{})
		failures <- err
	}()
	theirs.Close()
	if err := <-failures; !errors.Is(err, ttrpc.ErrClosed) {
		t.Errorf("error %v", err)
	}
	if err := errors.Join(client.Close(), client.Close()); err != nil {
		t.Error(err)
	}
	if _, err := Connect(t.Context(), reading{deaf{t, false}, ours}); err == nil || !strings.Contains(err.Error(), "descriptor") {
		t.Errorf("a connection without a descriptor: %v", err)
	}
}

// What a reader that was taken over says ends the connection, unless it is an answer.
func TestReaderThatWasTaken(t *testing.T) {
	answer := func(a plain.Answer, body ...byte) []byte { return append(a.Encode(), body...) }
	hello := make([]byte, 8+4+4+8+4+8)
	hello[0] = byte(protocol.Version)
	long := append([]byte(nil), hello...)
	long[8+4+4+8] = 0xff
	for name, c := range map[string]struct {
		says []byte
		want error
	}{
		"an answer":             {answer(plain.Answer{ID: 1, Length: len(hello)}, hello...), nil},
		"one that is too short": {answer(plain.Answer{ID: 1, Length: len(hello) - 1}, hello[1:]...), ErrMalformed},
		"one that is too long":  {answer(plain.Answer{ID: 1, Length: len(hello) + 1}, append(append([]byte(nil), hello...), 0)...), ErrMalformed},
		"a list too long":       {answer(plain.Answer{ID: 1, Length: len(long)}, long...), ErrMalformed},
		"nobody's":              {answer(plain.Answer{ID: 2, Length: 1}, 0), ErrMalformed},
		"a huge one":            {answer(plain.Answer{ID: 1, Length: 1 << 20}), ErrMalformed},
		"no words":              {answer(plain.Answer{ID: 1, Status: 2, Length: 2}, 'a', 0xff), ErrMalformed},
		"no head":               {make([]byte, plain.HeadSize), ErrMalformed},
		"an end":                {answer(plain.Answer{Status: plain.EndStalled, Length: 2}, 'n', '\n'), ErrStalled},
		"a part":                {[]byte{1}, ttrpc.ErrClosed},
		"nothing":               {nil, ttrpc.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			guest, _ := pair(t)
			go func() {
				_, _ = io.ReadFull(theirs, make([]byte, 1+plain.HeadSize))
				_, _ = theirs.Write(c.says)
				theirs.CloseWrite()
			}()
			client, err := Connect(t.Context(), reading{mouth{guest}, ours})
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if err == nil {
				client.Close()
			}
		})
	}
}

// The agent's clock is not the caller's: what it says of the time is not what counts.
func TestTheAgentIsEarlyWithTheEndOfTheTime(t *testing.T) {
	where := serveAll(t, func(context.Context, string) (proto.Message, error) {
		return nil, status.Error(codes.DeadlineExceeded, "so says the agent")
	})
	late := errors.New("the container did not start within its time")
	for name, dialer := range map[string]Dialer{"the owner": where, "the reader": read(t, where, time.Minute)} {
		client, err := Connect(t.Context(), dialer)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), aboutLate/4, late)
		_, err = client.StartContainer(ctx, &protocol.ContainerRequest{})
		if cancel(); !errors.Is(err, late) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, err = client.StartContainer(ctx, &protocol.ContainerRequest{}); !errors.Is(err, late) {
			t.Errorf("%s, when the time is over: error %v", name, err)
		}
		// One that has time is told what the agent says.
		if _, err = client.StartContainer(t.Context(), &protocol.ContainerRequest{}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s, without an end: error %v", name, err)
		}
		client.Close()
	}
}

// The words of an error are cut between two runes.
func TestLongWordsOfAnError(t *testing.T) {
	words := "a" + strings.Repeat("ä", plain.MaxText)
	client, err := Connect(t.Context(), read(t, serveAll(t, func(context.Context, string) (proto.Message, error) {
		return nil, status.Error(codes.NotFound, words)
	}), time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.StartContainer(t.Context(), &protocol.ContainerRequest{})
	said, ok := status.FromError(err)
	if !ok || said.Code() != codes.NotFound || said.Message() != words[:plain.MaxText-1] {
		t.Errorf("error %.100v", err)
	}
}

// A document takes no more memory than the guest may send.
func TestDocumentsDoNotGrow(t *testing.T) {
	all := plain.Methods()
	i := slices.IndexFunc(all, func(m plain.Method) bool { return m.Values > 0 })
	document := func(text int) []byte {
		values := binary.LittleEndian.AppendUint64(nil, plain.TokenObject)
		values = binary.LittleEndian.AppendUint64(values, plain.TokenKey)
		values = binary.LittleEndian.AppendUint32(values, uint32(text))
		values = append(values, bytes.Repeat([]byte{1}, text)...) // each is \u0001
		values = binary.LittleEndian.AppendUint64(values, plain.TokenNull)
		return binary.LittleEndian.AppendUint64(values, plain.TokenEnd)
	}
	for text, want := range map[int]error{plain.MaxDocument/6 - 16: nil, plain.MaxDocument/6 + 16: plain.ErrFormat, plain.MaxDocument + 1: plain.ErrFormat} {
		if err := decode(all[i], document(text), dynamicpb.NewMessage(methods().Get(i).Output())); !errors.Is(err, want) {
			t.Errorf("a text of %d bytes: %v", text, err)
		}
	}
}
