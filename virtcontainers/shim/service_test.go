package shim_test

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/virtcontainers/sandboxtest"
)

func TestLife(t *testing.T) {
	f := serve(t)
	f.run("c1")
	if _, err := f.Shutdown(f.ctx(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
		t.Error(err) // it has a task: nothing happens
	}
	state, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1"})
	if err != nil || state.GetStatus() != tasktypes.Status_RUNNING || state.GetPid() != uint32(os.Getpid()) {
		t.Errorf("%v, %v", state, err)
	}
	f.guest.Exit(sandboxtest.Init("c1"), 7)
	f.wait("c1", "", 7)
	f.wait("c1", "", 7)
	if pids, err := f.Pids(f.ctx(), &taskapi.PidsRequest{ID: "c1"}); err != nil || len(pids.GetProcesses()) != 1 {
		t.Errorf("pids of a task that has ended: %v, %v", pids, err)
	}
	if _, err = f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Errorf("kill of what has ended: %v", err)
	}
	_, err = f.Exec(f.ctx(), execRequest("c1", "late"))
	refused(t, err, codes.FailedPrecondition, "stopped")
	f.remove("c1", "")
	f.told("create c1", "start c1", "exit c1/c1 7", "delete c1")
	f.nothingOnHost()
	_, err = f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1"})
	refused(t, err, codes.NotFound)
	_, err = f.Wait(f.ctx(), &taskapi.WaitRequest{ID: "c1"})
	refused(t, err, codes.NotFound)
	// The connection may be closed before the answer is sent: ttrpc takes one with
	// a call under way for idle.
	if _, err := f.Shutdown(f.ctx(), &taskapi.ShutdownRequest{ID: "c1"}); err != nil && !isClosed(err) {
		t.Error(err)
	}
	f.ended()
}

func TestOrderOfEvents(t *testing.T) {
	f := serve(t)
	f.run("c1")
	f.exec("c1", "e1")
	f.exec("c1", "e2")
	for _, id := range []string{"e1", "e2"} {
		if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Pause(f.ctx(), &taskapi.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1"})
	refused(t, err, codes.FailedPrecondition, "paused")
	if _, err := f.Resume(f.ctx(), &taskapi.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	f.guest.Exit(sandboxtest.ProcessKey{Container: "c1", Process: "e1"}, 3)
	f.wait("c1", "e1", 3)
	f.remove("c1", "e1")
	f.guest.SetOOMEvents(1) // the news of the end is faster than this
	f.guest.Exit(sandboxtest.Init("c1"), 137)
	f.wait("c1", "", 137)
	f.wait("c1", "e2", 137)
	f.remove("c1", "")
	// Which of oom and e2's end is first, nobody says; both come before the task's.
	f.toldAnyOrder([]string{
		"create c1", "start c1", "exec-added c1/e1", "exec-added c1/e2", "exec-started c1/e1", "exec-started c1/e2",
		"paused c1", "resumed c1", "exit c1/e1 3",
	}, []string{"oom c1", "exit c1/e2 137"}, []string{"exit c1/c1 137", "delete c1"})
}

func TestVersion3(t *testing.T) {
	f := serve(t)
	conn := f.dial()
	defer conn.Close()
	v3 := taskv3.NewTTRPCTaskClient(conn)
	request := f.request("c1")
	if _, err := v3.Create(f.ctx(), &taskv3.CreateTaskRequest{ID: "c1", Bundle: request.GetBundle(), Options: request.GetOptions()}); err != nil {
		t.Fatal(err)
	}
	if _, err := v3.Start(f.ctx(), &taskv3.StartRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	connected, err := v3.Connect(f.ctx(), &taskv3.ConnectRequest{ID: "c1"})
	if err != nil || connected.GetTaskPid() != uint32(os.Getpid()) || connected.GetShimPid() != uint32(os.Getpid()) {
		t.Errorf("%v, %v", connected, err)
	}
	if _, err := v3.Kill(f.ctx(), &taskv3.KillRequest{ID: "c1", Signal: uint32(unix.SIGTERM)}); err != nil {
		t.Fatal(err)
	}
	if ended, err := v3.Wait(f.ctx(), &taskv3.WaitRequest{ID: "c1"}); err != nil || ended.GetExitStatus() != 143 {
		t.Errorf("%v, %v", ended, err)
	}
	if _, err := v3.Delete(f.ctx(), &taskv3.DeleteRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
}

// What is not possible has the error by which containerd knows it.
func TestRefusals(t *testing.T) {
	f := serve(t)
	connected, err := f.Connect(f.ctx(), &taskapi.ConnectRequest{ID: "c1"})
	if err != nil || connected.GetTaskPid() != 0 {
		t.Errorf("connect before there is a task: %v, %v", connected, err)
	}
	_, err = f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"})
	refused(t, err, codes.NotFound, "c1")
	f.run("c1", declared)
	for _, c := range []struct {
		name string
		call func() error
		code codes.Code
		text string
	}{
		{"create again", func() error {
			_, err := f.Create(f.ctx(), f.request("c1"))
			return err
		}, codes.AlreadyExists, "c1"},
		{"another pod", func() error {
			_, err := f.Create(f.ctx(), f.request("c2"))
			return err
		}, codes.AlreadyExists, "c1"},
		{"a container of another pod", func() error {
			_, err := f.Create(f.ctx(), f.request("c2", joins("other")))
			return err
		}, codes.NotFound, `"other"`},
		{"unknown options", func() error {
			request := f.request("c2", joins("c1"))
			request.Options = &anypb.Any{TypeUrl: "types.example.com/Options", Value: []byte("x")}
			_, err := f.Create(f.ctx(), request)
			return err
		}, codes.InvalidArgument, "they are of type \"Options\""},
		{"garbage for options", func() error {
			request := f.request("c2", joins("c1"))
			request.Options.Value = []byte("\xff\xff")
			_, err := f.Create(f.ctx(), request)
			return err
		}, codes.InvalidArgument, "runtimeoptions.v1.Options"},
		{"no bundle", func() error {
			request := f.request("c2", joins("c1"))
			request.Bundle = f.path("nowhere")
			_, err := f.Create(f.ctx(), request)
			return err
		}, codes.InvalidArgument, "nowhere/config.json"},
		{"a bundle without a specification", func() error {
			request := f.request("c2", joins("c1"))
			request.Bundle = t.TempDir()
			request.Rootfs = []*types.Mount{{Type: "bind", Source: f.dir, Options: []string{"rbind"}}}
			_, err := f.Create(f.ctx(), request)
			return err
		}, codes.InvalidArgument, "config.json"},
		{"an id that is none", func() error {
			_, err := f.Create(f.ctx(), &taskapi.CreateTaskRequest{ID: "../c2"})
			return err
		}, codes.InvalidArgument, "../c2"},
		{"a checkpoint to restore", func() error {
			_, err := f.Create(f.ctx(), &taskapi.CreateTaskRequest{ID: "c2", Checkpoint: "/x"})
			return err
		}, codes.InvalidArgument, "virtual machine"},
		{"checkpoint", func() error {
			_, err := f.Checkpoint(f.ctx(), &taskapi.CheckpointTaskRequest{ID: "c1"})
			return err
		}, codes.Unimplemented, "virtual machine"},
		{"delete what runs", func() error {
			_, err := f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1"})
			return err
		}, codes.FailedPrecondition, "running"},
		{"start again", func() error {
			_, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"})
			return err
		}, codes.FailedPrecondition, "running"},
		{"resume what is not paused", func() error {
			_, err := f.Resume(f.ctx(), &taskapi.ResumeRequest{ID: "c1"})
			return err
		}, codes.FailedPrecondition, ""},
		{"garbage for resources", func() error {
			_, err := f.Update(f.ctx(), &taskapi.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{Value: []byte("{")}})
			return err
		}, codes.InvalidArgument, "resources"},
		{"garbage for a process", func() error {
			request := execRequest("c1", "e1")
			request.Spec.Value = []byte("garbage")
			_, err := f.Exec(f.ctx(), request)
			return err
		}, codes.InvalidArgument, "process"},
		{"a process without a program", func() error {
			request := execRequest("c1", "e1")
			request.Spec.Value = []byte(`{"cwd":"/"}`)
			_, err := f.Exec(f.ctx(), request)
			return err
		}, codes.InvalidArgument, "args"},
		{"a process without an id", func() error {
			_, err := f.Exec(f.ctx(), execRequest("c1", ""))
			return err
		}, codes.InvalidArgument, "id"},
		{"an exec of no task", func() error {
			_, err := f.Exec(f.ctx(), execRequest("c9", "e1"))
			return err
		}, codes.NotFound, "c9"},
		{"kill of no process", func() error {
			_, err := f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c1", ExecID: "e9", Signal: 9})
			return err
		}, codes.NotFound, "e9"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, c.call(), c.code, c.text) })
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), f.dir) {
		t.Errorf("mounts are left: %s, %v", mounts, err)
	}
	f.told("create c1", "start c1")
}

func TestStartFails(t *testing.T) {
	f := serve(t)
	f.create("c1")
	f.guest.Refuse("StartContainer", status.Error(codes.AlreadyExists, "no such file"))
	_, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"})
	refused(t, err, codes.Unknown, "start container", "no such file")
	f.remove("c1", "")
	f.told("create c1", "exit c1/c1 137", "delete c1")
}

// The machine ends in the middle: every task has ended, and can be deleted.
func TestMachineEnds(t *testing.T) {
	f := serve(t)
	f.holders.real = true
	f.run("c1", declared)
	f.run("c2", f.member())
	f.exec("c2", "e1")
	if _, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c2", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	f.guest.Machine.Fail(errors.New("QEMU was killed"))
	f.wait("c1", "", 137)
	f.wait("c2", "e1", 137)
	f.wait("c2", "", 137)
	_, err := f.Stats(f.ctx(), &taskapi.StatsRequest{ID: "c2"})
	refused(t, err, codes.NotFound)
	_, err = f.Create(f.ctx(), f.request("c3", f.member()))
	refused(t, err, codes.Unavailable, "the virtual machine has ended", sandboxtest.Console)
	f.remove("c2", "e1")
	f.remove("c2", "")
	f.remove("c1", "")
	f.nothingOnHost()
	f.guest = sandboxtest.NewGuest() // the shim is good for another pod
	f.run("c1")
}

// A pod of two, of which each ends alone.
func TestPod(t *testing.T) {
	f := serve(t)
	f.holders.real = true
	f.run("c1", declared)
	f.run("c2", f.member())
	f.guest.Exit(sandboxtest.Init("c2"), 2)
	f.wait("c2", "", 2)
	f.remove("c2", "")
	if n := f.holders.left(); n != 1 {
		t.Errorf("%d holders", n)
	}
	f.run("c2", f.member()) // again: the shim ends with both
	f.told("create c1", "start c1", "create c2", "start c2", "exit c2/c2 2", "delete c2", "create c2", "start c2")
}

// A guest that is silent does not keep the shim from ending: whoever waits is told.
func TestEndWithSilentGuest(t *testing.T) {
	for _, method := range []string{"DestroySandbox", "StartContainer", "PauseContainer", "ExecProcess", "RemoveContainer"} {
		t.Run(method, func(t *testing.T) {
			f := serve(t)
			f.create("c1")
			called, release := f.guest.Hold(method)
			defer release()
			failed := make(chan error, 1)
			go func() {
				var err error
				switch method {
				case "StartContainer":
					_, err = f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"})
				case "PauseContainer":
					if _, err = f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"}); err == nil {
						_, err = f.Pause(f.ctx(), &taskapi.PauseRequest{ID: "c1"})
					}
				case "ExecProcess":
					if _, err = f.Exec(f.ctx(), execRequest("c1", "e1")); err == nil {
						_, err = f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
					}
				}
				failed <- err
			}()
			waited := make(chan error, 1)
			go func() {
				response, err := f.Wait(f.ctx(), &taskapi.WaitRequest{ID: "c1"})
				if err == nil && response.GetExitStatus() != 137 {
					err = errors.New("another code")
				}
				waited <- err
			}()
			if method != "DestroySandbox" && method != "RemoveContainer" {
				<-called
			} else {
				<-failed
				if _, err := f.State(f.ctx(), &taskapi.StateRequest{ID: "c1"}); err != nil {
					t.Error(err)
				}
				go func() {
					select {
					case <-called:
					case <-t.Context().Done():
					}
				}()
			}
			f.guest.Deaf.Store(method == "DestroySandbox")
			f.stop()
			// The wait may not have begun yet.
			if err := <-waited; err != nil && status.Code(err) != codes.Unavailable && !isClosed(err) {
				t.Error(err)
			}
			f.ended()
			release()
		})
	}
}

func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "ttrpc: closed")
}

func TestHooks(t *testing.T) {
	fails := func(version string, add func(*specs.Hooks, specs.Hook)) func(*specs.Spec) {
		return func(spec *specs.Spec) {
			spec.Version, spec.Hooks = version, &specs.Hooks{}
			add(spec.Hooks, specs.Hook{Path: "/bin/false"})
		}
	}
	t.Run("createRuntime", func(t *testing.T) {
		f := serve(t)
		_, err := f.Create(f.ctx(), f.request("c1", fails("1.2.0", func(h *specs.Hooks, hook specs.Hook) { h.CreateRuntime = []specs.Hook{hook} })))
		refused(t, err, codes.Unknown, "createRuntime", "/bin/false")
		f.nothingOnHost()
	})
	t.Run("poststart", func(t *testing.T) {
		f := serve(t)
		f.create("c1", fails("1.3.0", func(h *specs.Hooks, hook specs.Hook) { h.Poststart = []specs.Hook{hook} }))
		_, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"})
		refused(t, err, codes.Unknown, "poststart", "/bin/false")
		f.wait("c1", "", 137) // as with runc
		f.remove("c1", "")
	})
	t.Run("old poststart", func(t *testing.T) {
		f := serve(t)
		f.run("c1", fails("1.2.0", func(h *specs.Hooks, hook specs.Hook) { h.Poststart = []specs.Hook{hook} }))
	})
	t.Run("startContainer", func(t *testing.T) {
		f := serve(t)
		f.create("c1", fails("1.2.0", func(h *specs.Hooks, hook specs.Hook) { h.StartContainer = []specs.Hook{hook} }))
		f.guest.Refuse("StartContainer", errors.New("hook failed"))
		_, err := f.Start(f.ctx(), &taskapi.StartRequest{ID: "c1"})
		refused(t, err, codes.Unknown, "hook failed")
		f.wait("c1", "", 137)
		f.remove("c1", "")
	})
}
