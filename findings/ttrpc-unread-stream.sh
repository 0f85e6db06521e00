#!/bin/bash
# ttrpc has no flow control: a stream whose reader falls behind loses messages.
#
# Library: github.com/containerd/ttrpc v1.2.10
# Seen:    the client keeps 64 messages of a server's stream that nobody has read yet.
#          The next one ends the stream for the reader, who gets the 64 and then the
#          error "ttrpc: stream buffer full". The server is not told: each of its sends
#          succeeds. So a stream that must not lose anything needs answers of its own,
#          or a connection of its own; gRPC's would make the server wait.
#
#          as described: messages that the server sent without an error: 100
#          as described: messages that the late reader got: 64
#          as described: how the stream ended for it: ttrpc: stream buffer full
#          as described: another call on the connection meanwhile: works
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
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	sent := make(chan int, 1)
	server, err := ttrpc.NewServer()
	check(err)
	server.RegisterService("finding", &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{"Ping": func(_ context.Context, decode func(any) error) (any, error) {
			return &emptypb.Empty{}, decode(&emptypb.Empty{})
		}},
		Streams: map[string]ttrpc.Stream{"Count": {StreamingServer: true, Handler: func(_ context.Context, s ttrpc.StreamServer) (any, error) {
			check(s.RecvMsg(&emptypb.Empty{}))
			n := 0
			for ; n < 100; n++ {
				if s.SendMsg(wrapperspb.Int64(int64(n))) != nil {
					break
				}
			}
			sent <- n
			return nil, nil
		}}},
	})
	here, there := socketpair()
	go server.Serve(context.Background(), &listener{conn: there})
	client := ttrpc.NewClient(here)

	stream, err := client.NewStream(context.Background(), &ttrpc.StreamDesc{StreamingServer: true}, "finding", "Count", &emptypb.Empty{})
	check(err)
	fmt.Println(<-sent)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// Its answer comes after all that the stream has sent.
	check(client.Call(ctx, "finding", "Ping", &emptypb.Empty{}, &emptypb.Empty{}))
	got := 0
	for err = nil; err == nil; got++ {
		err = stream.RecvMsg(&wrapperspb.Int64Value{})
	}
	fmt.Println(got - 1)
	fmt.Println(err)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func socketpair() (net.Conn, net.Conn) {
	l, err := net.Listen("unix", "socket")
	check(err)
	defer l.Close()
	a, err := net.Dial("unix", "socket")
	check(err)
	b, err := l.Accept()
	check(err)
	return a, b
}

// listener accepts one connection, and no more.
type listener struct {
	net.Listener
	conn net.Conn
}

func (l *listener) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	select {}
}
func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.conn.LocalAddr() }
END
build github.com/containerd/ttrpc@v1.2.10
timeout --foreground 60 ./program >seen 2>log || { tail -n 5 log >&2; expect "another call on the connection meanwhile" works fails; }
expect "messages that the server sent without an error" 100 "$(sed -n 1p seen)"
expect "messages that the late reader got" 64 "$(sed -n 2p seen)"
expect "how the stream ended for it" "ttrpc: stream buffer full" "$(sed -n 3p seen)"
expect "another call on the connection meanwhile" works works
