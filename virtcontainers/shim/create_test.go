package shim_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers/sandboxtest"
)

// A task that was never started is deleted as it is.
func TestDeleteCreated(t *testing.T) {
	f := serve(t)
	f.create("c1")
	waited := make(chan *taskapi.WaitResponse, 1)
	go func() {
		response, err := f.Wait(f.ctx(), &taskapi.WaitRequest{ID: "c1"})
		if err != nil && status.Code(err) != codes.NotFound { // it may come after the deletion
			t.Error(err)
		}
		waited <- response
	}()
	response, err := f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1"})
	if err != nil || response.GetExitStatus() != 137 {
		t.Errorf("%v, %v", response, err)
	}
	<-waited
	f.told("create c1", "exit c1/c1 137", "delete c1")
	f.nothingOnHost()
}

// The guest refuses: nothing is left, and the next Create of the id works.
func TestCreateFails(t *testing.T) {
	for name, c := range map[string]struct {
		fail, mend func(*fixture)
		texts      []string
	}{
		"guest refuses": {
			func(f *fixture) { f.guest.Refuse("CreateContainer", errors.New("no room in the guest")) },
			nil,
			[]string{"create container", "no room in the guest"},
		},
		"machine ends": {
			func(f *fixture) {
				f.guest.On("CreateContainer", func(ctx context.Context, _ any) error {
					f.guest.Machine.Fail(errors.New("QEMU was killed"))
					<-ctx.Done()
					return ctx.Err()
				})
			}, nil, []string{"create container", "QEMU was killed", sandboxtest.Console},
		},
		"no holder": {
			func(f *fixture) { f.holders.fail = errors.New("no holder today") },
			func(f *fixture) { f.holders.fail = nil },
			[]string{"no holder today"},
		},
		"stdout that is not there": {
			func(*fixture) {}, nil, []string{"stdout", "missing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			c.fail(f)
			mark := f.path("poststop")
			request := f.request("c1", func(spec *specs.Spec) {
				spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/usr/bin/touch", Args: []string{"touch", mark}}}}
			})
			request.Rootfs = []*types.Mount{{Type: "bind", Source: f.dir, Options: []string{"rbind"}}}
			if strings.Contains(name, "stdout") {
				request.Stdout = f.path("missing")
			} else {
				request.Stdout = f.path("stdout")
				if err := unix.Mkfifo(request.GetStdout(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := f.Create(f.ctx(), request)
			if err == nil {
				t.Fatal("it was created")
			}
			refused(t, err, status.Code(err), c.texts...)
			f.nothingOnHost()
			if _, err := os.Stat(mark); err != nil && name != "no holder" {
				t.Errorf("poststop hooks: %v", err)
			}
			// Nobody has the output open any more.
			if fd, err := unix.Open(f.path("stdout"), unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				unix.Close(fd)
				t.Error("the fifo is still open")
			}
			f.guest = sandboxtest.NewGuest()
			if c.mend != nil {
				c.mend(f)
			}
			f.run("c1")
			f.told("create c1", "start c1")
		})
	}
}

// A creation ends with its caller's patience, and with the task's deletion,
// wherever it is.
func TestCreateEnds(t *testing.T) {
	stages := map[string]func(*fixture) (reached <-chan struct{}){
		"holder": func(f *fixture) <-chan struct{} {
			f.holders.started = make(chan struct{})
			return f.holders.started
		},
		"boot": func(f *fixture) <-chan struct{} {
			f.guest.Silent = true
			return f.guest.Machine.Started()
		},
		"guest": func(f *fixture) <-chan struct{} {
			called, _ := f.guest.Hold("CreateContainer")
			return called
		},
	}
	ends := map[string]func(*fixture){
		"caller's deadline": func(*fixture) {},
		"delete": func(f *fixture) {
			_, err := f.Delete(f.ctx(), &taskapi.DeleteRequest{ID: "c1"})
			refused(f.t, err, codes.NotFound)
			f.nothingOnHost()
		},
		"containerd dies": func(f *fixture) { f.conn.Close() },
		"shim ends":       func(f *fixture) { f.end() },
	}
	for stage, block := range stages {
		for how, end := range ends {
			t.Run(stage+"/"+how, func(t *testing.T) {
				f := serve(t)
				reached := block(f)
				ctx := f.ctx()
				if how == "caller's deadline" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				request := f.request("c1")
				request.Rootfs = []*types.Mount{{Type: "bind", Source: f.dir, Options: []string{"rbind"}}}
				failed := make(chan error, 1)
				go func() {
					_, err := f.Create(ctx, request)
					failed <- err
				}()
				var err error
				select {
				case <-reached:
					end(f)
					err = <-failed
				case err = <-failed: // a loaded machine has not come so far
				}
				if err == nil {
					t.Error("it was created")
				}
				if how != "shim ends" { // or see serve
					f.end()
				}
				f.nothingOnHost()
				f.told()
			})
		}
	}
}

func TestConcurrentCreates(t *testing.T) {
	f := serve(t)
	var group sync.WaitGroup
	codesOf := make(chan codes.Code, 8)
	requests := make([]*taskapi.CreateTaskRequest, 8)
	for i := range requests {
		requests[i] = f.request("c1")
	}
	for _, request := range requests {
		group.Go(func() {
			_, err := f.Create(f.ctx(), request)
			codesOf <- status.Code(err)
		})
	}
	group.Wait()
	close(codesOf)
	count := map[codes.Code]int{}
	for code := range codesOf {
		count[code]++
	}
	if count[codes.OK] != 1 || count[codes.AlreadyExists] != 7 {
		t.Errorf("%v", count)
	}
}

// The root file system is in the shim's mount namespace as long as the task is
// there.
func TestRootfs(t *testing.T) {
	f := serve(t)
	source := f.path("image")
	if err := os.MkdirAll(filepath.Join(source, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	request := f.request("c1")
	if err := os.Remove(filepath.Join(request.GetBundle(), "rootfs")); err != nil { // not every caller makes it
		t.Fatal(err)
	}
	request.Rootfs = []*types.Mount{{Type: "bind", Source: source, Options: []string{"rbind"}}}
	if _, err := f.Create(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(request.GetBundle(), "rootfs", "etc")); err != nil {
		t.Error(err)
	}
	f.remove("c1", "")
	f.nothingOnHost()
	request.Rootfs[0].Source = f.path("gone")
	_, err := f.Create(f.ctx(), request)
	refused(t, err, codes.NotFound, "root file system", "gone", "no such file")
	f.nothingOnHost()
}
