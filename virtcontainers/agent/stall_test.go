package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/protocol"
)

// deaf is a dialer of a guest that answers Hello, if it is to, and then takes no
// byte any more.
type deaf struct {
	t      *testing.T
	answer bool
}

func (d deaf) Dial(context.Context, uint32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	var answering sync.WaitGroup
	d.t.Cleanup(func() {
		theirs.Close()
		answering.Wait()
	})
	if d.answer {
		answering.Go(func() {
			if err := answerHello(theirs); err != nil {
				d.t.Error(err)
			}
		})
	}
	return ours, nil
}

// answerHello answers the first request, without reading further than that.
func answerHello(conn net.Conn) error {
	header := make([]byte, frameHeader)
	if _, err := io.ReadFull(conn, header); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(header))); err != nil {
		return err
	}
	hello, err := proto.Marshal(&protocol.HelloResponse{Version: protocol.Version})
	if err != nil {
		return err
	}
	response, err := proto.Marshal(&ttrpc.Response{Payload: hello})
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(response)))
	frame = append(frame, header[4:8]...) // the request's stream
	frame = append(frame, frameResponse, 0)
	_, err = conn.Write(append(frame, response...))
	return err
}

func TestAGuestThatTakesNothingEndsTheConnection(t *testing.T) {
	client, err := connect(t.Context(), deaf{t, true}, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	failures := make(chan error)
	for range 2 { // one writes, the other waits until it has
		go func() {
			_, err := client.SignalProcess(context.Background(), &protocol.SignalProcessRequest{ContainerId: "c", Signal: 9})
			failures <- err
		}()
	}
	// Either may also hear only that the connection is closed.
	if first, second := <-failures, <-failures; !errors.Is(first, ErrStalled) && !errors.Is(second, ErrStalled) {
		t.Errorf("errors %v and %v, want ErrStalled", first, second)
	}
	if _, err := client.Hello(t.Context(), &protocol.HelloRequest{}); err == nil {
		t.Error("a call succeeds afterwards")
	}
}

func TestClosingEndsACallThatTheGuestDoesNotTake(t *testing.T) {
	client, err := connect(t.Context(), deaf{t, true}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	failure := make(chan error)
	go func() {
		_, err := client.SignalProcess(context.Background(), &protocol.SignalProcessRequest{ContainerId: "c", Signal: 9})
		failure <- err
	}()
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failure; err == nil {
		t.Error("the call succeeds")
	}
}

func TestConnectHeedsItsContextWhileItWrites(t *testing.T) {
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, gaveUp)
	defer cancel()
	if _, err := connect(ctx, deaf{t, false}, time.Hour); !errors.Is(err, gaveUp) {
		t.Errorf("error %v", err)
	}
}

// slow is a guest's end that no write's bound applies to: one that takes some
// bytes again and again.
type slow struct{ net.Conn }

func (slow) SetWriteDeadline(time.Time) error { return nil }

type slowDialer struct{ deaf }

func (d slowDialer) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := d.deaf.Dial(ctx, port)
	return slow{conn}, err
}

func TestACallThatOutlivesItsContextEndsTheConnection(t *testing.T) {
	client, err := connect(t.Context(), slowDialer{deaf{t, true}}, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.SignalProcess(ctx, &protocol.SignalProcessRequest{ContainerId: "c", Signal: 9}); !errors.Is(err, ErrStalled) {
		t.Errorf("error %v, want ErrStalled", err)
	}
}

// The agent is told how long a call may take, and may be the first to find that it has. What
// the caller is told is his own reason, not the agent's deadline.
func TestAnAgentThatIsLateFirst(t *testing.T) {
	late := func(_ context.Context, _ *ttrpc.Request, response *ttrpc.Response) error {
		response.Status = status.New(codes.DeadlineExceeded, context.DeadlineExceeded.Error()).Proto()
		return nil
	}
	cause := errors.New("the agent did not answer within its time")
	c := &checkedConn{patience: time.Minute}
	call := func(timeout time.Duration) (*ttrpc.Response, error) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), timeout, cause)
		defer cancel()
		var response ttrpc.Response
		return &response, c.bound(ctx, &ttrpc.Request{}, &response, &ttrpc.UnaryClientInfo{FullMethod: "/kata.Agent/Hello"}, late)
	}
	if _, err := call(time.Millisecond); !errors.Is(err, cause) {
		t.Errorf("as the time is up: %v", err)
	}
	if response, err := call(time.Hour); err != nil || response.GetStatus() == nil {
		t.Errorf("a deadline of the agent's own is its answer: %v, %v", response, err)
	}
}
