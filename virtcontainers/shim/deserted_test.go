package shim_test

import (
	"context"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
)

// A containerd that is killed cannot ask a shim to end that has nothing more to do,
// and the next one does not either.
func TestDeserted(t *testing.T) {
	for name, until := range map[string]func(*fixture){
		"during the first creation": func(f *fixture) {
			f.guest.Silent = true
			failed := make(chan error, 1)
			ctx, cancel := context.WithCancel(f.ctx())
			defer cancel()
			request := f.request("c1")
			go func() {
				_, err := f.Create(ctx, request)
				failed <- err
			}()
			<-f.guest.Machine.Started()
			f.conn.Close()
			<-failed
		},
		"after the last deletion": func(f *fixture) {
			f.run("c1")
			if _, err := f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c1", Signal: 9}); err != nil {
				f.t.Fatal(err)
			}
			f.wait("c1", "", 137)
			f.remove("c1", "")
			f.conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			until(f)
			f.ended()
			f.nothingOnHost()
		})
	}
}

// A containerd that is restarted finds the shim of a task.
func TestRestartedContainerd(t *testing.T) {
	f := serve(t)
	other := f.dial() // before there is a task: nobody has deserted the shim
	other.Close()
	f.run("c1")
	f.conn.Close()
	f.conn = f.dial()
	f.TTRPCTaskService = taskapi.NewTTRPCTaskClient(f.conn)
	if _, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
}
