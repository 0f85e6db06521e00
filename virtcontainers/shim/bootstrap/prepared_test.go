package bootstrap

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
)

// Why a pod starts cold is for the server's log; a process that hangs up is ended.
func TestColdStartsAreExplained(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files, inv := []*os.File{null, null, null, null}, invocation{bundle: t.TempDir()}
	m := &machinePool{pool: pool.Open(t.TempDir()), settings: config.Default(), fit: pool.Fit{Kind: pool.Shim}}
	if s, cold := m.take(t.Context(), inv, files); s != nil || cold != (coldStart{Reason: pool.ReasonEmpty}) {
		t.Errorf("no machine: %v, %+v", s, cold)
	}
	if s, cold := (*machinePool)(nil).take(t.Context(), inv, files); s != nil || cold != (coldStart{}) {
		t.Errorf("no pool: %v, %+v", s, cold)
	}

	process := exec.CommandContext(t.Context(), "sleep", "1000")
	var slot *pool.Slot
	if _, err := m.pool.Fill(t.Context(), m.fit, pool.Request{Config: m.settings}, 1, func(dir, name string, lock *os.File) (int, error) {
		fd, err := unix.FcntlInt(lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		if slot, err = pool.Occupy(dir, name, os.NewFile(uintptr(fd), "lock")); err != nil {
			return 0, err
		}
		return start(process)
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var offering sync.WaitGroup
	ready := make(chan struct{})
	offering.Go(func() {
		log := slog.New(slog.DiscardHandler)
		_ = slot.Offer(ctx, log, func(conn *channel.Conn) bool {
			select {
			case <-ready:
				received, _ := receiveAdoption(conn, &adoption{})
				for _, file := range received {
					file.Close()
				}
			default: // asks whether it is offered
				close(ready)
			}
			return false
		})
	})
	for offered := false; !offered; {
		claim, _, err := m.pool.Take(t.Context(), m.fit)
		if err != nil {
			t.Fatal(err)
		}
		if offered = claim != nil; offered {
			<-ready
			claim.Conn.Close()
		}
	}
	if s, cold := m.take(t.Context(), inv, files); s != nil || cold.Reason != pool.ReasonDied || cold.Error == "" {
		t.Errorf("one that hangs up: %v, %+v", s, cold)
	}
	_ = process.Wait()
	if status, ok := process.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("its process has ended by %v", process.ProcessState)
	}
	cancel()
	offering.Wait()
	if err := slot.Remove(); err != nil {
		t.Error(err)
	}
}

func start(cmd *exec.Cmd) (pid int, err error) {
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return cmd.Process.Pid, nil
}
