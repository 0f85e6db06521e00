#!/bin/bash
# A forced deletion takes "cannot be killed now" for "is dead".
#
# Library: github.com/containerd/containerd/v2/client v2.4.2
# Seen:    client.WithProcessKill, by which a caller deletes a task that may still run,
#          sends SIGKILL and waits for the exit. What the shim answers to the signal
#          decides otherwise: after errdefs.ErrFailedPrecondition it returns nil at once,
#          without a wait, though the process runs on; after errdefs.ErrNotFound it waits
#          for an exit event, until the caller's context ends; any other error it returns.
#          A shim whose process cannot take a signal at the moment (paused, being
#          created, its machine not to be reached) therefore must not say so by
#          FailedPrecondition: the caller goes on to delete what runs.
#
#          as described: a shim that takes the signal: waits for the exit, no error
#          as described: "failed precondition": does not wait, no error
#          as described: "not found": waits for the exit, no error
#          as described: "unavailable": does not wait, unavailable
. "$(dirname "$0")/lib/common.sh"

cat >main.go <<'END'
package main

import (
	"context"
	"fmt"
	"syscall"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
)

// process runs until exit is sent, which the answer to its signal precedes.
type process struct {
	client.Process
	answer error
	asked  chan struct{}
	exit   chan client.ExitStatus
}

func (p *process) Pid() uint32 { return 1000 }

func (p *process) Wait(context.Context) (<-chan client.ExitStatus, error) { return p.exit, nil }

func (p *process) Kill(context.Context, syscall.Signal, ...client.KillOpts) error {
	close(p.asked)
	return p.answer
}

func main() {
	for _, answer := range []error{nil, errdefs.ErrFailedPrecondition, errdefs.ErrNotFound, errdefs.ErrUnavailable} {
		p := &process{answer: answer, asked: make(chan struct{}), exit: make(chan client.ExitStatus)}
		returned := make(chan error, 1)
		go func() { returned <- client.WithProcessKill(context.Background(), p) }()
		<-p.asked
		select { // the exit is taken only by somebody who waits for it
		case err := <-returned:
			tell(false, err)
		case p.exit <- client.ExitStatus{}:
			tell(true, <-returned)
		}
	}
}

func tell(waited bool, err error) {
	what := "does not wait"
	if waited {
		what = "waits for the exit"
	}
	switch {
	case err == nil:
		fmt.Println(what + ", no error")
	case errdefs.IsUnavailable(err):
		fmt.Println(what + ", unavailable")
	default:
		fmt.Println(what+",", err)
	}
}
END
build github.com/containerd/containerd/v2@v2.4.2 github.com/containerd/errdefs@v1.0.0
./program >seen
expect "a shim that takes the signal" "waits for the exit, no error" "$(sed -n 1p seen)"
expect '"failed precondition"' "does not wait, no error" "$(sed -n 2p seen)"
expect '"not found"' "waits for the exit, no error" "$(sed -n 3p seen)"
expect '"unavailable"' "does not wait, unavailable" "$(sed -n 4p seen)"
