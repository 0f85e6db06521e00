#!/bin/bash
# Cancelling a ttrpc call does not cancel it on the server.
#
# Library: github.com/containerd/ttrpc v1.2.10
# Seen:    a client whose context is cancelled returns at once, and nothing of it goes
#          over the wire: the handler's context stays alive for as long as the
#          connection does. A deadline does travel, with the request. So a server that
#          waits for something on a client's behalf goes on waiting for nobody, unless
#          the call had a deadline or a connection of its own.
#
#          as described: the cancelled call: context canceled
#          as described: the handler's context a second later: alive
#          as described: after the connection was closed: context canceled
#          as described: the handler's context after the client's deadline: context deadline exceeded
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

func main() {
	contexts := make(chan context.Context, 1)
	server, err := ttrpc.NewServer()
	check(err)
	server.RegisterService("finding", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Wait": func(ctx context.Context, decode func(any) error) (any, error) {
			check(decode(&emptypb.Empty{}))
			contexts <- ctx
			<-ctx.Done()
			return &emptypb.Empty{}, nil
		},
	}})
	l, err := net.Listen("unix", "socket")
	check(err)
	go server.Serve(context.Background(), l)
	conn, err := net.Dial("unix", "socket")
	check(err)
	client := ttrpc.NewClient(conn)
	wait := func(ctx context.Context) error {
		return client.Call(ctx, "finding", "Wait", &emptypb.Empty{}, &emptypb.Empty{})
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = wait(ctx)
	deadline := state(<-contexts)

	ctx, cancel = context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- wait(ctx) }()
	handler := <-contexts
	cancel()
	fmt.Println(<-ended)
	fmt.Println(state(handler))
	client.Close()
	fmt.Println(state(handler))
	fmt.Println(deadline)
}

// state tells what has become of a context within a second.
func state(ctx context.Context) string {
	select {
	case <-ctx.Done():
		return ctx.Err().Error()
	case <-time.After(time.Second):
		return "alive"
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
END
build github.com/containerd/ttrpc@v1.2.10
timeout --foreground 60 ./program >seen 2>log || { tail -n 5 log >&2; untried "the program failed"; }
expect "the cancelled call" "context canceled" "$(sed -n 1p seen)"
expect "the handler's context a second later" alive "$(sed -n 2p seen)"
expect "after the connection was closed" "context canceled" "$(sed -n 3p seen)"
expect "the handler's context after the client's deadline" "context deadline exceeded" "$(sed -n 4p seen)"
