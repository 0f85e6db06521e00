#!/bin/bash
# A ttrpc answer that is too large ends the connection, a request that is fails alone.
#
# Library: github.com/containerd/ttrpc v1.2.10
# Seen:    a message is 4 MiB at most. A client that calls with more gets an error which
#          says so, with the code ResourceExhausted, and goes on. If a handler's answer is
#          larger, the server only logs it and closes the connection: the call fails with
#          "ttrpc: closed", without a word of the size, and so do all others that are
#          under way there, whatever they are about, and all later ones. A shim's one
#          connection carries the calls of everybody.
#
#          as described: a request of 5 MiB: ResourceExhausted
#          as described: another call after it: ok
#          as described: an answer of 5 MiB: ttrpc: closed
#          as described: a call that was under way: ttrpc: closed
#          as described: another call after it: ttrpc: closed
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var large = wrapperspb.Bytes(make([]byte, 5<<20))

func main() {
	called, release := make(chan struct{}), make(chan struct{})
	server, err := ttrpc.NewServer()
	check(err)
	server.RegisterService("finding", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Take": func(ctx context.Context, decode func(any) error) (any, error) {
			return &emptypb.Empty{}, decode(&wrapperspb.BytesValue{})
		},
		"Give": func(ctx context.Context, decode func(any) error) (any, error) {
			return large, decode(&emptypb.Empty{})
		},
		"Wait": func(ctx context.Context, decode func(any) error) (any, error) {
			check(decode(&emptypb.Empty{}))
			close(called)
			<-release
			return &emptypb.Empty{}, nil
		},
	}})
	listener, err := net.Listen("unix", "socket")
	check(err)
	go server.Serve(context.Background(), listener)
	conn, err := net.Dial("unix", "socket")
	check(err)
	client := ttrpc.NewClient(conn)
	call := func(method string, request, answer any) error {
		return client.Call(context.Background(), "finding", method, request, answer)
	}

	fmt.Println(text(call("Take", large, &emptypb.Empty{})))
	fmt.Println(text(call("Take", wrapperspb.Bytes(nil), &emptypb.Empty{})))
	waiting := make(chan error, 1)
	go func() { waiting <- call("Wait", &emptypb.Empty{}, &emptypb.Empty{}) }()
	<-called
	fmt.Println(text(call("Give", &emptypb.Empty{}, &wrapperspb.BytesValue{})))
	fmt.Println(text(<-waiting))
	fmt.Println(text(call("Take", wrapperspb.Bytes(nil), &emptypb.Empty{})))
	close(release)
}

func text(err error) string {
	switch {
	case err == nil:
		return "ok"
	case status.Code(err) == codes.ResourceExhausted:
		return "ResourceExhausted"
	}
	return err.Error()
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build github.com/containerd/ttrpc@v1.2.10
timeout --foreground 60 ./program >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "a request of 5 MiB" ResourceExhausted "$(sed -n 1p seen)"
expect "another call after it" ok "$(sed -n 2p seen)"
expect "an answer of 5 MiB" "ttrpc: closed" "$(sed -n 3p seen)"
expect "a call that was under way" "ttrpc: closed" "$(sed -n 4p seen)"
expect "another call after it" "ttrpc: closed" "$(sed -n 5p seen)"
