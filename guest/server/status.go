package server

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/container"
	"kata-runtime/guest/sockets"
	"kata-runtime/guest/storage"
	"kata-runtime/guest/stream"
)

// toStatus gives an error the code that the protocol promises.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, container.ErrInvalid), errors.Is(err, storage.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, container.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, container.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, container.ErrNotRunning), errors.Is(err, stream.ErrNotConnected), errors.Is(err, errSandboxState),
		errors.Is(err, sockets.ErrUnavailable):
		code = codes.FailedPrecondition
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, err.Error())
}
