#!/bin/bash
# A ttrpc server that shuts down gracefully drops the answer of a call under way.
#
# Library: github.com/containerd/ttrpc v1.2.10
# Seen:    Server.Shutdown closes connections that are idle and waits for the others,
#          as its caller would expect of it. Yet a connection counts as idle until an
#          answer has been sent while another call was under way: the only call of a
#          client does not make it busy. So its connection is closed under the handler,
#          which runs to its end, and the client gets an error for what was done. Of two
#          calls, the second is waited for once the first was answered.
#
#          as described: the answer to the only call: ttrpc: closed
#          as described: the handler of that call: ran to its end
#          as described: the answer to the second of two calls: ok
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

// setup is a server whose method Slow waits for release, and a client.
type setup struct {
	server  *ttrpc.Server
	client  *ttrpc.Client
	called  chan struct{}
	release chan struct{}
	ended   chan struct{}
}

func start(name string) *setup {
	s := &setup{called: make(chan struct{}), release: make(chan struct{}), ended: make(chan struct{}, 1)}
	var err error
	s.server, err = ttrpc.NewServer()
	check(err)
	s.server.RegisterService("finding", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Quick": func(ctx context.Context, decode func(any) error) (any, error) {
			return &emptypb.Empty{}, decode(&emptypb.Empty{})
		},
		"Slow": func(ctx context.Context, decode func(any) error) (any, error) {
			check(decode(&emptypb.Empty{}))
			s.called <- struct{}{}
			<-s.release
			s.ended <- struct{}{}
			return &emptypb.Empty{}, nil
		},
	}})
	l, err := net.Listen("unix", name)
	check(err)
	go s.server.Serve(context.Background(), l)
	conn, err := net.Dial("unix", name)
	check(err)
	s.client = ttrpc.NewClient(conn)
	return s
}

func (s *setup) call(method string) chan error {
	answered := make(chan error, 1)
	go func() {
		answered <- s.client.Call(context.Background(), "finding", method, &emptypb.Empty{}, &emptypb.Empty{})
	}()
	return answered
}

func (s *setup) shutdown() chan error {
	ended := make(chan error, 1)
	go func() { ended <- s.server.Shutdown(context.Background()) }()
	return ended
}

func main() {
	s := start("only")
	answer := s.call("Slow")
	<-s.called
	down := s.shutdown()
	err := <-answer // before the handler was released
	close(s.release)
	<-s.ended
	<-down
	fmt.Println(text(err))
	fmt.Println("ran to its end")

	s = start("second")
	answer = s.call("Slow")
	<-s.called
	check(<-s.call("Quick"))
	time.Sleep(time.Second) // the server notes what it has answered
	down = s.shutdown()
	time.Sleep(time.Second)
	close(s.release)
	fmt.Println(text(<-answer))
}

func text(err error) string {
	if err == nil {
		return "ok"
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
expect "the answer to the only call" "ttrpc: closed" "$(sed -n 1p seen)"
expect "the handler of that call" "ran to its end" "$(sed -n 2p seen)"
expect "the answer to the second of two calls" ok "$(sed -n 3p seen)"
