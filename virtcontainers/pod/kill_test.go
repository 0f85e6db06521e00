package pod_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/pod"
)

// A guest in which SIGKILL ends nothing, or that does not answer, loses its machine.
func TestSurvivorLosesItsMachine(t *testing.T) {
	for name, stubborn := range map[string]func(*fixture){
		"immortal": func(f *fixture) { f.guest.Immortal.Store(true) },
		"silent": func(f *fixture) {
			called, release := f.guest.Hold("SignalProcess")
			f.t.Cleanup(release)
			go func() { <-called }()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newPod(t, func(o *pod.Options) { o.Survival = 10 * time.Millisecond })
			f.run("pod")
			c, _, _ := f.run("c2")
			stubborn(f)
			err := c.Signal(t.Context(), syscall.SIGKILL, true)
			if err != nil && !errors.Is(err, virtcontainers.ErrNotRunning) {
				t.Error(err)
			}
			<-c.Finished()
			if exit := c.Init().Exit(); exit.Code != 137 || !errors.Is(exit.Reason, virtcontainers.ErrMachineEnded) {
				t.Errorf("%+v", exit)
			}
		})
	}
}
