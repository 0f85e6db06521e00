package main

import (
	"context"
	"errors"
	"os/exec"
	"testing"
)

func TestWhileAlive(t *testing.T) {
	cmd := exec.Command("cat") // ends with its input
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	unwatched, stop, err := whileAlive(t.Context(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if cause := context.Cause(unwatched); !errors.Is(cause, context.Canceled) {
		t.Errorf("stopped: %v", cause)
	}
	ctx, stop, err := whileAlive(t.Context(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if ctx.Err() != nil {
		t.Errorf("while it lives: %v", ctx.Err())
	}
	stdin.Close()
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, errPodGone) {
		t.Errorf("ended: %v", cause)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
