package shim_test

import (
	"context"
	"errors"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers/sandboxtest"
)

// The first process ends while another one is being started: its end is told last.
func TestEndDuringExec(t *testing.T) {
	for range 10 {
		f := serve(t)
		f.run("c1")
		f.exec("c1", "e1")
		f.guest.On("ExecProcess", func(context.Context, any) error {
			go f.guest.Exit(sandboxtest.Init("c1"), 1)
			return nil
		})
		_, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
		f.guest.Exit(sandboxtest.ProcessKey{Container: "c1", Process: "e1"}, 137) // if it was late
		f.wait("c1", "", 1)
		if err == nil {
			f.told("create c1", "start c1", "exec-added c1/e1", "exec-started c1/e1", "exit c1/e1 137", "exit c1/c1 1")
		} else {
			f.told("create c1", "start c1", "exec-added c1/e1", "exit c1/c1 1")
		}
		f.end()
	}
}

func TestExec(t *testing.T) {
	f := serve(t)
	f.run("c1")
	f.exec("c1", "e1")
	_, err := f.Exec(f.ctx(), execRequest("c1", "e1"))
	refused(t, err, codes.AlreadyExists, "e1")
	state, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1", ExecID: "e1"})
	if err != nil || state.GetStatus() != tasktypes.Status_CREATED || state.GetPid() == 0 {
		t.Errorf("%v, %v", state, err)
	}
	f.remove("c1", "e1") // before it was started
	_, err = f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1", ExecID: "e1"})
	refused(t, err, codes.NotFound, "e1")

	f.exec("c1", "e1") // the id is free
	early := make(chan uint32, 1)
	go func() { // before it was started
		response, err := f.Wait(f.ctx(), &taskapi.WaitRequest{ID: "c1", ExecID: "e1"})
		if err != nil {
			t.Error(err)
		}
		early <- response.GetExitStatus()
	}()
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	_, err = f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
	refused(t, err, codes.FailedPrecondition, "started")
	_, err = f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1", ExecID: "e1"})
	refused(t, err, codes.FailedPrecondition, "running")
	if _, err := f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c1", ExecID: "e1", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if code := <-early; code != 137 {
		t.Errorf("code %d", code)
	}
	f.remove("c1", "e1")
}

// An exec whose start fails is nothing that anybody waits for.
func TestExecFails(t *testing.T) {
	f := serve(t)
	f.run("c1")
	f.exec("c1", "e1")
	waited := make(chan error, 1)
	go func() {
		_, err := f.Wait(f.ctx(), &taskapi.WaitRequest{ID: "c1", ExecID: "e1"})
		waited <- err
	}()
	f.guest.Refuse("ExecProcess", status.Error(codes.NotFound, "no such program"))
	_, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
	refused(t, err, codes.Unknown, "exec failed", "no such program") // not what the guest calls it
	if err := <-waited; err != nil {
		t.Error(err)
	}
	f.wait("c1", "e1", 255)
	state, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1", ExecID: "e1"})
	if err != nil || state.GetStatus() != tasktypes.Status_STOPPED {
		t.Errorf("%v, %v", state, err)
	}
	_, err = f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c1", ExecID: "e1", Signal: 9})
	refused(t, err, codes.NotFound)
	f.remove("c1", "e1")

	// One that is never started does not outlive its task, nor do those who wait.
	f.exec("c1", "e2")
	go func() {
		_, err := f.Wait(f.ctx(), &taskapi.WaitRequest{ID: "c1", ExecID: "e2"})
		waited <- err
	}()
	f.guest.Exit(sandboxtest.Init("c1"), 0)
	f.wait("c1", "", 0)
	f.remove("c1", "")
	if err := <-waited; err != nil && status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// The input of a process may be closed before it is started.
func TestCloseIOBeforeStart(t *testing.T) {
	f := serve(t)
	f.run("c1")
	fifo := f.path("stdin")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	request := execRequest("c1", "e1")
	request.Stdin = fifo
	if _, err := f.Exec(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CloseIO(f.ctx(), &taskapi.CloseIORequest{ID: "c1", ExecID: "e1", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	// Nobody has it open for reading once it has ended.
	fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 {
			t.Errorf("the input is open: %v", err)
		}
		unix.Close(fd)
	} else if !errors.Is(err, unix.ENXIO) {
		t.Fatal(err)
	}
	f.guest.Exit(sandboxtest.ProcessKey{Container: "c1", Process: "e1"}, 0)
	f.wait("c1", "e1", 0)
}
