package taskerror_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/shim/taskerror"
)

// service answers every Kill with an error.
type service struct {
	task.TTRPCTaskService

	err error
}

func (s *service) Kill(context.Context, *task.KillRequest) (*emptypb.Empty, error) { return nil, s.err }

// TestOverTTRPC sends errors as the shim does, and looks at what containerd makes
// of them.
func TestOverTTRPC(t *testing.T) {
	s := &service{}
	client := task.NewTTRPCTaskClient(serve(t, s))
	stage := &virtcontainers.StageError{Stage: virtcontainers.StageBootKernel, Err: virtcontainers.ErrMachineEnded, Console: "panic"}
	for _, test := range []struct {
		err        error
		want, gone error // what errdefs makes of Encode and EncodeGone; nil for unknown
	}{
		{fmt.Errorf("container c1: %w", virtcontainers.ErrNotFound), errdefs.ErrNotFound, errdefs.ErrNotFound},
		{fmt.Errorf("c1: %w", virtcontainers.ErrExists), errdefs.ErrAlreadyExists, errdefs.ErrAlreadyExists},
		{fmt.Errorf("c1: %w: it is stopped", virtcontainers.ErrNotRunning), errdefs.ErrFailedPrecondition, errdefs.ErrNotFound},
		{fmt.Errorf("%w: cannot delete it", virtcontainers.ErrState), errdefs.ErrFailedPrecondition, errdefs.ErrFailedPrecondition},
		{stage, errdefs.ErrUnavailable, errdefs.ErrUnavailable},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), context.DeadlineExceeded, context.DeadlineExceeded},
		{fmt.Errorf("read: %w", context.Canceled), context.Canceled, context.Canceled},
		{fmt.Errorf("options: %w", errdefs.ErrInvalidArgument), errdefs.ErrInvalidArgument, errdefs.ErrInvalidArgument},
		{fmt.Errorf("exec e1: %w", errdefs.ErrNotImplemented), errdefs.ErrNotImplemented, errdefs.ErrNotImplemented},
		{errors.New("something else"), nil, nil},
		// What the guest calls its error does not count.
		{fmt.Errorf("signal the process: %w", status.Error(codes.NotFound, "no such thing")), nil, nil},
	} {
		for _, form := range []struct {
			encode func(error) error
			want   error
		}{{taskerror.Encode, test.want}, {taskerror.EncodeGone, test.gone}} {
			s.err = form.encode(test.err)
			_, err := client.Kill(t.Context(), &task.KillRequest{ID: "c1"})
			err = errgrpc.ToNative(err)
			for _, kind := range []error{
				errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition, errdefs.ErrUnavailable,
				errdefs.ErrInvalidArgument, errdefs.ErrNotImplemented, context.DeadlineExceeded, context.Canceled,
			} {
				if errors.Is(err, kind) != errors.Is(form.want, kind) {
					t.Errorf("%v: %v is %v: %v", test.err, err, kind, errors.Is(err, kind))
				}
			}
			if !contains(err, test.err) {
				t.Errorf("%q has become %q", test.err, err)
			}
		}
	}
	if taskerror.Encode(nil) != nil || taskerror.EncodeGone(nil) != nil {
		t.Error("no error has become one")
	}
	if err := errgrpc.ToNative(taskerror.NotImplemented("checkpoint: no")); !errdefs.IsNotImplemented(err) {
		t.Errorf("%v", err)
	}
}

// contains tells whether an error's text is kept whole, at the end or the begin.
func contains(err, original error) bool {
	return err != nil && len(err.Error()) >= len(original.Error()) &&
		(err.Error()[:len(original.Error())] == original.Error() || err.Error()[len(err.Error())-len(original.Error()):] == original.Error())
}

func serve(t *testing.T, s *service) *ttrpc.Client {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	task.RegisterTTRPCTaskService(server, s)
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener) // until it is closed
	}()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-done
	})
	return client
}
