package pool

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/virtcontainers/store"
)

func TestADiscardedMachineIsNobodys(t *testing.T) {
	p := Open(t.TempDir())
	slot := occupied(t, p, fit(), 1)[0]
	record, err := readRecord(slot.dir())
	if err != nil {
		t.Fatal(err)
	}
	record.State = Ending // as discard does, without a signal to this process
	if err := writeJSON(filepath.Join(slot.dir(), recordName), record); err != nil {
		t.Fatal(err)
	}
	if err := slot.Leave(t.Context(), os.Getpid()); !errors.Is(err, ErrDiscarded) {
		t.Errorf("who takes it is told: %v", err)
	}
	if _, reason := take(t, p, fit()); reason != ReasonEmpty {
		t.Errorf("a machine that ends: %q", reason)
	}
}

// TestALeftoverIsNoMachine: after a reboot, its pid may be anybody's.
func TestALeftoverIsNoMachine(t *testing.T) {
	p := Open(t.TempDir())
	if err := p.prepare(); err != nil {
		t.Fatal(err)
	}
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dir := p.machine("left")
	record := Record{Name: "left", State: Ready, PID: os.Getpid(), StartTime: start + 1, Fit: fit()}
	if err := errors.Join(os.Mkdir(dir, 0o700), writeJSON(filepath.Join(dir, recordName), record), os.Mkdir(p.machine("empty"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if list, err := p.List(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if _, reason := take(t, p, fit()); reason != ReasonDied {
		t.Errorf("%q", reason)
	}
	fillWithSleep(t, p, fit(), 1)
	names, err := p.names()
	if err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

// What a machine has left and cannot be removed does not keep the pool empty, nor is it
// counted again and again.
func TestALeftoverThatStays(t *testing.T) {
	p := Open(t.TempDir())
	kill(t, fillWithSleep(t, p, fit(), 1)[0])
	names, err := p.names()
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	stays := filepath.Join(p.machine(names[0]), "stays")
	if err := os.WriteFile(stays, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	started := 0
	for range 2 { // commands
		n, err := p.Fill(t.Context(), fit(), request(), 1, func(_, _ string, _ *os.File) (int, error) {
			return os.Getpid(), nil
		})
		if started += n; err == nil {
			t.Error("nobody is told")
		}
	}
	if started != 1 {
		t.Errorf("%d machines were started", started)
	}
	if err := os.Remove(stays); err != nil {
		t.Fatal(err)
	}
	fillWithSleep(t, p, fit(), 1)
	if names, err = p.names(); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

// A record that cannot be read is nobody's, unless its process lives.
func TestABrokenRecord(t *testing.T) {
	p := Open(t.TempDir())
	pid := fillWithSleep(t, p, fit(), 1)[0]
	names, err := p.names()
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	if err := os.WriteFile(filepath.Join(p.machine(names[0]), recordName), nil, 0o600); err != nil { // a lost disk cache
		t.Fatal(err)
	}
	fillWithSleep(t, p, fit(), 0)
	if _, err := os.Stat(p.machine(names[0])); err != nil {
		t.Errorf("of a process that lives: %v", err)
	}
	kill(t, pid)
	fillWithSleep(t, p, fit(), 0)
	if _, err := os.Stat(p.machine(names[0])); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of one that does not: %v", err)
	}
}

// Machines are counted for the front end that they are for, and once.
func TestWhatDiedIsCountedOnce(t *testing.T) {
	p := Open(t.TempDir())
	shims := fit()
	shims.Kind = Shim
	kill(t, fillWithSleep(t, p, shims, 1)[0])
	stale := fillWithSleep(t, p, fit(), 1)[0]
	newer := fit()
	newer.Files = "newer"
	fillWithSleep(t, p, newer, 0)
	await(t, func() bool {
		_, err := store.StartTime(stale)
		return errors.Is(err, fs.ErrNotExist)
	})
	fillWithSleep(t, p, newer, 0)
	counters, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	got := map[Kind]map[Reason]int{}
	for kind, counts := range counters {
		got[kind] = counts.Discarded
	}
	if diff := cmp.Diff(map[Kind]map[Reason]int{Shim: {ReasonDied: 1}, Supervisor: {ReasonFiles: 1}}, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

// A machine that is to end and does not is killed by a later command.
func TestAMachineThatDoesNotObey(t *testing.T) {
	p := Open(t.TempDir())
	stubborn := exec.Command("sh", "-c", "trap '' TERM; echo; exec sleep 1000")
	ready, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fill(t.Context(), fit(), request(), 1, func(_, _ string, lock *os.File) (int, error) {
		stubborn.ExtraFiles = []*os.File{lock}
		err := stubborn.Start()
		if err == nil {
			_, err = ready.Read(make([]byte, 1))
		}
		return stubborn.Process.Pid, err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stubborn.Process.Kill() }) // unless it was waited for
	newer := fit()
	newer.Files = "newer"
	fillWithSleep(t, p, newer, 0)
	records, err := p.List()
	if err != nil || len(records) != 1 || records[0].State != Ending {
		t.Fatalf("%+v, %v", records, err)
	}
	record := records[0]
	record.Since = record.Since.Add(-2 * destroyPatience)
	if err := writeJSON(filepath.Join(p.machine(record.Name), recordName), record); err != nil {
		t.Fatal(err)
	}
	fillWithSleep(t, p, newer, 0)
	if err := stubborn.Wait(); err == nil || stubborn.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("%v", err)
	}
}
