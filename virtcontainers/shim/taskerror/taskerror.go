// Package taskerror gives the product's errors the codes by which containerd
// finds out what happened (github.com/containerd/errdefs). Texts stay as they
// are.
//
// The code is decided here alone. An error that came from the guest has a code of
// the guest's choice somewhere in its chain, which errgrpc.ToGRPC would pass on:
// a guest could have containerd forget a task by calling it not found.
package taskerror

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers"
)

// Encode returns err as a service returns it to containerd; nil for nil.
func Encode(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(code(err), err.Error())
}

// EncodeGone is Encode for Kill and Stats, where containerd takes a process that
// has ended for one that is not found, and is content: as runc's shim says it.
func EncodeGone(err error) error {
	if errors.Is(err, virtcontainers.ErrNotRunning) || errors.Is(err, virtcontainers.ErrNotFound) {
		return status.Error(codes.NotFound, fmt.Sprintf("process already finished: %v", err))
	}
	return Encode(err)
}

// NotImplemented is the error of a call that the product does not have; text
// says which and why.
func NotImplemented(text string) error { return status.Error(codes.Unimplemented, text) }

func code(err error) codes.Code {
	switch {
	case errors.Is(err, virtcontainers.ErrExists):
		return codes.AlreadyExists
	case errors.Is(err, virtcontainers.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, virtcontainers.ErrNotRunning), errors.Is(err, virtcontainers.ErrState):
		return codes.FailedPrecondition
	case errors.Is(err, virtcontainers.ErrMachineEnded):
		// containerd goes on without the answer, and does not forget the task:
		// its end is told by an event.
		return codes.Unavailable
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codeOf(err)
}

// codeOf is the code of an error that is one of errdefs, as the shim's own are.
func codeOf(err error) codes.Code {
	switch {
	case errdefs.IsInvalidArgument(err):
		return codes.InvalidArgument
	case errdefs.IsNotFound(err):
		return codes.NotFound
	case errdefs.IsAlreadyExists(err):
		return codes.AlreadyExists
	case errdefs.IsPermissionDenied(err):
		return codes.PermissionDenied
	case errdefs.IsFailedPrecondition(err):
		return codes.FailedPrecondition
	case errdefs.IsUnavailable(err):
		return codes.Unavailable
	case errdefs.IsNotImplemented(err):
		return codes.Unimplemented
	default:
		return codes.Unknown
	}
}
