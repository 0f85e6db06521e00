package node

import (
	"bufio"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// fakeSystemd answers as systemd does on a bus: a job, and later its end.
type fakeSystemd struct {
	bus     *dbus.Conn
	results map[string]string // by unit
}

func (f *fakeSystemd) RestartUnit(unit, _ string) (dbus.ObjectPath, *dbus.Error) {
	result, ok := f.results[unit]
	if !ok {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + unit + " not found."})
	}
	const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	if result != "" {
		go func() {
			_ = f.bus.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(7), job, unit, result)
		}()
	}
	return job, nil
}

// TestRestart runs a bus of its own.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "bus")
	config := filepath.Join(dir, "bus.conf")
	write(t, dir, map[string]string{"bus.conf": `<busconfig><listen>unix:path=` + socket + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow eavesdrop="true"/><allow own="*"/><allow send_destination="*"/></policy></busconfig>`})
	daemon := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address=1")
	output, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Skipf("no dbus-daemon: %v", err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	if _, err := bufio.NewReader(output).ReadString('\n'); err != nil { // it listens
		t.Fatal(err)
	}
	bus, err := dialBus(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	fake := &fakeSystemd{bus, map[string]string{"good.service": "done", "bad.service": "failed", "slow.service": ""}}
	if err := bus.Export(fake, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.RequestName("org.freedesktop.systemd1", 0); err != nil {
		t.Fatal(err)
	}
	if err := restart(t.Context(), socket, "good.service"); err != nil {
		t.Error(err)
	}
	for unit, want := range map[string]string{"bad.service": `ended with "failed"`, "none.service": "not found"} {
		if err := restart(t.Context(), socket, unit); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", unit, err, want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	go cancel(stopped)
	if err := restart(ctx, socket, "slow.service"); err == nil {
		t.Error("a job without an end ends")
	}
	if err := restartOn(dir)(t.Context(), "good.service"); err == nil || !strings.Contains(err.Error(), busSocket) {
		t.Errorf("without a bus: %v", err)
	}
}
