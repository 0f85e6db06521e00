package virtcontainers_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/share"
)

type option func(*virtcontainers.SandboxOptions, *virtcontainers.Assignment)

func impatient(o *virtcontainers.SandboxOptions, _ *virtcontainers.Assignment) {
	o.BootTimeout = time.Millisecond
}

func TestContainerRunsToItsEnd(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{
		ID: "c1", IO: virtcontainers.IO{Stdout: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Status() != virtcontainers.StatusCreated {
		t.Errorf("status %s after the creation", c.Status())
	}
	if err := c.Delete(t.Context()); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("delete a created container: %v, want ErrState", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); !errors.Is(err, virtcontainers.ErrState) {
		t.Errorf("start twice: %v, want ErrState", err)
	}
	guest.Print(sandboxtest.Init("c1"), "output")
	guest.Exit(sandboxtest.Init("c1"), 7)
	output, err := io.ReadAll(c.Init().Streams.Stdout)
	if err != nil || string(output) != "output" {
		t.Errorf("stdout %q, %v", output, err)
	}
	<-c.Init().Done()
	if code := c.Init().Exit().Code; code != 7 || c.Status() != virtcontainers.StatusStopped {
		t.Errorf("exit code %d, status %s, %v", code, c.Status(), c.Init().Exit().Reason)
	}
	if err := c.Signal(t.Context(), syscall.SIGTERM, false); !errors.Is(err, virtcontainers.ErrNotRunning) {
		t.Errorf("signal a stopped container: %v, want ErrNotRunning", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := sandbox.Container("c1"); !errors.Is(err, virtcontainers.ErrNotFound) {
		t.Errorf("look up a deleted container: %v, want ErrNotFound", err)
	}
}

func TestAnIDIsTakenOnce(t *testing.T) {
	sandbox := startSandbox(t, sandboxtest.NewGuest())
	if _, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	if !errors.Is(err, virtcontainers.ErrExists) {
		t.Errorf("second container: %v, want ErrExists", err)
	}
}

// What is in the share for the creation alone is there no longer than that.
func TestTemporaryMountsAreDetached(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1", Mounts: []share.Mount{
		{Name: share.Rootfs, Tree: emptyFile(t)}, {Name: share.Memory(1), Tree: emptyFile(t), Temporary: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c1/mounts/memory-1"}, guest.Share.Detached()); diff != "" {
		t.Error(diff)
	}
}

func emptyFile(t *testing.T) *os.File {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestNothingIsMadeInAMachineThatHasEnded(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	if err := sandbox.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "late"})
	if !errors.Is(err, virtcontainers.ErrMachineEnded) {
		t.Errorf("error %v, want ErrMachineEnded", err)
	}
	if n := guest.Share.Containers(); n != 0 || sandbox.Containers() != 0 {
		t.Errorf("%d shares and %d containers are left", n, sandbox.Containers())
	}
}

func TestTheGuestsRefusalLeavesNothing(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Refuse("CreateContainer", status.Error(codes.Unknown, `exec: "nope": executable file not found in $PATH`))
	sandbox := startSandbox(t, guest)
	_, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageCreateContainer {
		t.Fatalf("error %v, want one of the stage %q", err, virtcontainers.StageCreateContainer)
	}
	if !strings.Contains(err.Error(), "executable file not found") || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("text %q", err)
	}
	if sandbox.Containers() != 0 || guest.Share.Containers() != 0 {
		t.Errorf("%d containers and %d shares are left", sandbox.Containers(), guest.Share.Containers())
	}
}

func TestAMachineThatEndsDuringTheBoot(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent = true
	sandbox := startedSandbox(t, guest)
	<-guest.Machine.Started()
	guest.Machine.Fail(&hypervisor.ExitError{VMM: "qemu", Status: "exit status 1", Stderr: "no such kernel"})
	err := sandbox.Ready(t.Context())
	var stage *virtcontainers.StageError
	if !errors.As(err, &stage) || stage.Stage != virtcontainers.StageBootKernel {
		t.Fatalf("error %v, want one of the stage %q", err, virtcontainers.StageBootKernel)
	}
	for _, want := range []string{"no such kernel", "last words"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not quote %q", err, want)
		}
	}
}

// An error that can quote nothing says how to learn more.
func TestAKernelThatSaysNothing(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent, guest.Machine.Mute = true, true
	sandbox := startedSandbox(t, guest)
	<-guest.Machine.Started()
	guest.Machine.Fail(hypervisor.ErrGuestReset)
	err := sandbox.Ready(t.Context())
	if !errors.Is(err, hypervisor.ErrGuestReset) || !strings.Contains(err.Error(), `kernel_params = "debug"`) {
		t.Errorf("error %v", err)
	}

	guest = sandboxtest.NewGuest()
	guest.Silent, guest.Machine.Mute = true, true
	killed := startedSandbox(t, guest)
	<-guest.Machine.Started()
	guest.Machine.Fail(&hypervisor.ExitError{VMM: "qemu", Status: "signal: killed"})
	if err := killed.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "kernel_params") {
		t.Errorf("a VMM that was killed: %v", err)
	}
}

func TestAGuestThatNeverAnswers(t *testing.T) {
	guest := sandboxtest.NewGuest()
	guest.Silent = true
	sandbox := startedSandbox(t, guest, impatient)
	err := sandbox.Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "did not answer within 1ms (dial_timeout)") {
		t.Errorf("error %v", err)
	}
	guest = sandboxtest.NewGuest()
	_, release := guest.Hold("Hello")
	defer release()
	restored := startedSandbox(t, guest, impatient, func(o *virtcontainers.SandboxOptions, _ *virtcontainers.Assignment) { o.Restored = true })
	err = restored.Ready(t.Context())
	if err == nil || !strings.Contains(err.Error(), "did not answer within 1ms (a part of dial_timeout)") {
		t.Errorf("a machine that does not boot: %v", err)
	}
}

func TestTheMachinesEndIsTheContainers(t *testing.T) {
	guest := sandboxtest.NewGuest()
	sandbox := startSandbox(t, guest)
	c, err := sandbox.CreateContainer(t.Context(), virtcontainers.ContainerOptions{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	guest.Machine.Fail(&hypervisor.ExitError{VMM: "qemu", Status: "signal: killed"})
	<-guest.Machine.Stopped() // without being asked to: a part of it may have lived on
	<-c.Init().Done()
	exit := c.Init().Exit()
	if exit.Code != 137 || !errors.Is(exit.Reason, virtcontainers.ErrMachineEnded) {
		t.Errorf("exit %d, %v", exit.Code, exit.Reason)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Errorf("delete after the machine's end: %v", err)
	}
}

// newSandbox's machine was not started, and belongs to nobody: the second result is to
// be assigned.
func newSandbox(t *testing.T, guest *sandboxtest.Guest, options ...option) (*virtcontainers.Sandbox, virtcontainers.Assignment) {
	t.Helper()
	o := virtcontainers.SandboxOptions{
		Machine: guest.Machine, Token: sandboxtest.Token, BootTimeout: time.Minute, Log: slog.New(slog.DiscardHandler),
	}
	assignment := virtcontainers.Assignment{ID: "pod", Share: guest.Share}
	for _, option := range options {
		option(&o, &assignment)
	}
	sandbox := virtcontainers.NewSandbox(o)
	t.Cleanup(func() {
		if err := sandbox.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sandbox, assignment
}

// startedSandbox's machine boots, for a pod.
func startedSandbox(t *testing.T, guest *sandboxtest.Guest, options ...option) *virtcontainers.Sandbox {
	t.Helper()
	sandbox, assignment := newSandbox(t, guest, options...)
	sandbox.Boot()
	if err := sandbox.Assign(assignment); err != nil {
		t.Fatal(err)
	}
	return sandbox
}

// startSandbox's machine has booted, and was set up.
func startSandbox(t *testing.T, guest *sandboxtest.Guest, options ...option) *virtcontainers.Sandbox {
	t.Helper()
	sandbox := startedSandbox(t, guest, options...)
	if err := sandbox.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return sandbox
}
