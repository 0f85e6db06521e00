package virtcontainers_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/sandboxtest"
)

// FuzzAnswers lets an agent answer a sequence of calls as it likes: with success,
// with errors of every code, not at all, with exits and deaths in between. Each step
// is a byte: the call, and what the agent does. Whatever it does, a stop ends the
// machine, and every process has ended then.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0x00, 0x10, 0x20, 0x30, 0x40, 0x50})
	f.Add([]byte{0x01, 0x00, 0x12, 0x10, 0x33, 0x30, 0x44, 0x40})
	f.Add([]byte{0x00, 0x10, 0x06, 0x16, 0x50, 0x37})
	f.Add([]byte{0x00, 0x05, 0x15, 0x25, 0x08, 0x10, 0x59, 0x00})
	f.Fuzz(func(t *testing.T, script []byte) {
		defer time.AfterFunc(20*time.Second, func() { panic("it hangs") }).Stop()
		guest := sandboxtest.NewGuest()
		sandbox := startSandbox(t, guest)
		var processes []*virtcontainers.Process
		var containers []*virtcontainers.Container
		for i, b := range script[:min(len(script), 24)] {
			misbehave(guest, b&15)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			var c *virtcontainers.Container
			if len(containers) > 0 {
				c = containers[i%len(containers)]
			}
			switch call := b >> 4 & 7; {
			case call == 0 || c == nil:
				id := "c" + strings.Repeat("x", i%3)
				if made, err := sandbox.CreateContainer(ctx, virtcontainers.ContainerOptions{ID: id, IO: virtcontainers.IO{Stdout: true}}); err == nil {
					containers, processes = append(containers, made), append(processes, made.Init())
				}
			case call == 1:
				_ = c.Start(ctx)
			case call == 2:
				_ = c.Signal(ctx, syscall.SIGTERM, b&1 != 0)
			case call == 3:
				if p, err := c.Exec(ctx, virtcontainers.ExecOptions{ID: "e", IO: virtcontainers.IO{Stdin: true}}); err == nil {
					processes = append(processes, p)
				}
			case call == 4:
				_ = c.Delete(ctx)
			case call == 5:
				_, _ = c.Processes(ctx)
			case call == 6:
				_, _ = c.Stats(ctx)
			case call == 7:
				guest.Exit(sandboxtest.Init(c.ID()), uint32(b)<<5)
			}
			cancel()
			if b&15 == 5 {
				break // each further call waits for the news of the machine's end
			}
		}
		stop, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := sandbox.Stop(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop: %v", err)
		}
		if !guest.Machine.WasStopped() {
			t.Error("the machine goes on")
		}
		for _, p := range processes {
			<-p.Done() // or it hangs
		}
	})
}

// misbehave sets what every call is answered from now on.
func misbehave(guest *sandboxtest.Guest, how byte) {
	var hook sandboxtest.Hook
	switch {
	case how < 4: // as it should be
	case how == 4:
		hook = func(ctx context.Context, _ any) error {
			<-ctx.Done()
			return ctx.Err()
		}
	case how == 5:
		hook = func(context.Context, any) error {
			guest.HangUp()
			return nil
		}
	default:
		hook = func(context.Context, any) error {
			return status.Error(codes.Code(how), strings.Repeat("\x1b[31m\n", int(how)))
		}
	}
	for _, method := range []string{
		"CreateContainer", "StartContainer", "SignalProcess", "ExecProcess", "RemoveContainer", "ListProcesses", "StatsContainer", "WaitProcess", "NextOOM",
	} {
		guest.On(method, hook)
	}
}
