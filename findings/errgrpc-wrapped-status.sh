#!/bin/bash
# An error class put around another service's answer does not reach the caller.
#
# Library: github.com/containerd/errdefs/pkg v0.3.0, github.com/containerd/ttrpc v1.2.10
# Seen:    A service that asks another one, and says in containerd's way what its failure
#          means, fmt.Errorf("%w: %w", errdefs.ErrNotFound, answer), sends on the code of
#          the inner answer: errgrpc.ToGRPC takes an error for converted as soon as there
#          is a gRPC status anywhere in its chain, and returns it as it is, and the server
#          then looks for the status in the same way. The text is the outer error's. So a
#          caller sees "not found: ..." that is Unavailable, and errdefs.IsNotFound is
#          false after errgrpc.ToNative, though it was true before. Without a status in
#          the chain the class arrives.
#
#          as described: the class of an error around a plain one: not found, outer text
#          as described: the class of an error around an answer: unavailable, outer text
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

func main() {
	plain := errors.New("the other service is away")
	answer := status.Error(codes.Unavailable, "the other service is away")
	for _, inner := range []error{plain, answer} {
		failure := fmt.Errorf("snapshot: %w: %w", errdefs.ErrNotFound, inner)
		if !errdefs.IsNotFound(failure) {
			panic("no class")
		}
		err := ask(failure)
		switch native := errgrpc.ToNative(err); {
		case errdefs.IsNotFound(native):
			fmt.Print("not found")
		case errdefs.IsUnavailable(native):
			fmt.Print("unavailable")
		default:
			fmt.Print(native)
		}
		if strings.Contains(err.Error(), "snapshot: not found") {
			fmt.Println(", outer text")
		} else {
			fmt.Println(", other text")
		}
	}
}

// ask lets a server fail and returns what its client is told.
func ask(failure error) error {
	server, err := ttrpc.NewServer()
	check(err)
	server.RegisterService("finding", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Fail": func(context.Context, func(any) error) (any, error) { return nil, errgrpc.ToGRPC(failure) },
	}})
	l, err := net.Listen("unix", "")
	check(err)
	go server.Serve(context.Background(), l)
	defer server.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	check(err)
	client := ttrpc.NewClient(conn)
	defer client.Close()
	return client.Call(context.Background(), "finding", "Fail", &emptypb.Empty{}, &emptypb.Empty{})
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build github.com/containerd/ttrpc@v1.2.10 github.com/containerd/errdefs/pkg@v0.3.0
timeout --foreground 60 ./program >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "the class of an error around a plain one" "not found, outer text" "$(sed -n 1p seen)"
expect "the class of an error around an answer" "unavailable, outer text" "$(sed -n 2p seen)"
