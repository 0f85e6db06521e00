package pool

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/store"
)

func fit() Fit {
	return Fit{Kind: Supervisor, Source: "/c.toml", Config: "config", Files: "files", Surroundings: "here"}
}

func request() Request {
	settings := config.Default()
	settings.Hypervisor.Kernel = "/k"
	return Request{Config: settings}
}

// fillWithSleep starts processes that do nothing, and returns their pids.
func fillWithSleep(t *testing.T, p *Pool, f Fit, size int) (pids []int) {
	t.Helper()
	started, err := p.Fill(t.Context(), f, request(), size, func(_, _ string, lock *os.File) (int, error) {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "sleep", "1000")
		cmd.ExtraFiles = []*os.File{lock}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // a zombie would not be gone
			close(ended)
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
		pids = append(pids, cmd.Process.Pid)
		return cmd.Process.Pid, nil
	})
	if err != nil || started != len(pids) {
		t.Fatalf("%d started, %v, and %d processes", started, err, len(pids))
	}
	return pids
}

// occupied is a machine of this process.
func occupied(t *testing.T, p *Pool, f Fit, size int) (slots []*Slot) {
	t.Helper()
	if _, err := p.Fill(t.Context(), f, request(), size, func(dir, name string, lock *os.File) (int, error) {
		fd, err := unix.FcntlInt(lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		slot, err := Occupy(dir, name, os.NewFile(uintptr(fd), "lock"))
		slots = append(slots, slot)
		return os.Getpid(), err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, slot := range slots {
			slot.Remove()
			slot.mounts.Close()
		}
	})
	return slots
}

// offer gives machines to whoever is first, and counts those.
func offer(t *testing.T, slots []*Slot) (given func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var offering sync.WaitGroup
	var mu sync.Mutex
	count := 0
	for _, slot := range slots {
		offering.Go(func() {
			_ = slot.Offer(ctx, slog.New(slog.DiscardHandler), func(conn *channel.Conn) bool {
				var question string
				if _, err := conn.Receive(&question); err != nil {
					return false
				}
				if err := slot.Leave(ctx, os.Getpid()); err != nil {
					t.Error(err)
					return false
				}
				mu.Lock()
				count++
				mu.Unlock()
				return conn.Send(slot.Name()) == nil
			})
		})
	}
	for _, slot := range slots { // until all of them are ready
		await(t, func() bool {
			record, err := readRecord(slot.dir())
			return err == nil && record.State == Ready
		})
	}
	return func() int {
		cancel()
		offering.Wait()
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

func await(t *testing.T, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("it does not come")
		}
	}
}

// take takes a machine as a command does, and returns its name or why there is none.
func take(t *testing.T, p *Pool, f Fit) (string, Reason) {
	t.Helper()
	for {
		claim, reason, err := p.Take(t.Context(), f)
		if err != nil {
			t.Error(err)
		}
		if claim == nil {
			return "", reason
		}
		conn := channel.FromConn(claim.Conn)
		var name string
		err = conn.Send("mine?")
		if err == nil {
			_, err = conn.Receive(&name)
		}
		conn.Close()
		if err == nil {
			return name, ""
		}
	}
}

// Who asks for a machine while another command gets it has no answer, and leaves it alone.
func TestGiveUp(t *testing.T) {
	p := Open(t.TempDir())
	slot := occupied(t, p, fit(), 1)[0] // of this process: its end would be the test's
	record, err := readRecord(slot.dir())
	if err != nil {
		t.Fatal(err)
	}
	claim := &Claim{Record: record, pool: p}
	if err := slot.Leave(t.Context(), os.Getpid()+1); err != nil {
		t.Fatal(err)
	}
	if taken, err := claim.GiveUp(t.Context()); err != nil || !taken {
		t.Errorf("another's machine: %t, %v", taken, err)
	}
	if err := slot.Remove(); err != nil {
		t.Fatal(err)
	}
	if taken, err := claim.GiveUp(t.Context()); err != nil || !taken {
		t.Errorf("a machine that is all a pod's: %t, %v", taken, err)
	}

	silent := exec.Command("sleep", "1000")
	if _, err := p.Fill(t.Context(), fit(), request(), 1, func(_, _ string, lock *os.File) (int, error) {
		silent.ExtraFiles = []*os.File{lock}
		err := silent.Start()
		return silent.Process.Pid, err
	}); err != nil {
		t.Fatal(err)
	}
	records, err := p.List()
	if err != nil || len(records) != 1 {
		t.Fatalf("%v, %v", records, err)
	}
	if taken, err := (&Claim{Record: records[0], pool: p}).GiveUp(t.Context()); err != nil || taken {
		t.Errorf("a silent process: %t, %v", taken, err)
	}
	if err := silent.Wait(); err == nil || silent.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("a silent process: %v", err)
	}
}

func TestNoMachineIsTakenTwice(t *testing.T) {
	p := Open(t.TempDir())
	const machines, commands = 3, 12
	given := offer(t, occupied(t, p, fit(), machines))
	var mu sync.Mutex
	taken, cold := make(map[string]int), make(map[Reason]int)
	var asking sync.WaitGroup
	for range commands {
		asking.Go(func() {
			name, reason := take(t, p, fit())
			mu.Lock()
			defer mu.Unlock()
			if reason == "" {
				taken[name]++
			} else {
				cold[reason]++
			}
		})
	}
	asking.Wait()
	if n := given(); n != machines || len(taken) != machines {
		t.Errorf("%d of %d machines were given away: %v", n, machines, taken)
	}
	for name, n := range taken {
		if n != 1 {
			t.Errorf("machine %s was taken %d times", name, n)
		}
	}
	if n := cold[ReasonEmpty] + cold[ReasonTaken]; n != commands-machines {
		t.Errorf("the others start cold for %v", cold)
	}
}

func TestWhatFits(t *testing.T) {
	p := Open(t.TempDir())
	if _, reason := take(t, p, fit()); reason != ReasonEmpty {
		t.Errorf("from no pool: %q", reason)
	}
	slots := occupied(t, p, fit(), 1)
	if _, reason := take(t, p, fit()); reason != ReasonPreparing {
		t.Errorf("a machine that waits: %q", reason)
	}
	given := offer(t, slots)
	for want, change := range map[Reason]func(*Fit){
		ReasonKind:          func(f *Fit) { f.Kind = Shim },
		ReasonConfiguration: func(f *Fit) { f.Config = "other" },
		ReasonFiles:         func(f *Fit) { f.Files = "newer" },
		ReasonSurroundings:  func(f *Fit) { f.Surroundings = "there" },
	} {
		other := fit()
		change(&other)
		if _, reason := take(t, p, other); reason != want {
			t.Errorf("%+v: %q, want %q", other, reason, want)
		}
	}
	if name, reason := take(t, p, fit()); name != slots[0].Name() || reason != "" {
		t.Errorf("%q, %q", name, reason)
	}
	if n := given(); n != 1 {
		t.Errorf("it was given away %d times", n)
	}
}

func TestFillReplacesWhatDiedOrIsStale(t *testing.T) {
	p := Open(t.TempDir())
	first := fillWithSleep(t, p, fit(), 2)
	if len(first) != 2 {
		t.Fatalf("%d machines, want 2", len(first))
	}
	if more := fillWithSleep(t, p, fit(), 2); len(more) != 0 {
		t.Errorf("a full pool got %d more", len(more))
	}
	other := fit()
	other.Source = "/other.toml"
	others := fillWithSleep(t, p, other, 1)
	shims := fit()
	shims.Kind = Shim
	fillWithSleep(t, p, shims, 1)

	kill(t, first[0])
	if _, reason := take(t, p, fit()); reason != ReasonDied {
		t.Errorf("with one that died, and one that waits: %q", reason)
	}
	second := fillWithSleep(t, p, fit(), 2)
	if len(second) != 1 {
		t.Errorf("for one that died there are %d", len(second))
	}
	newer := fit()
	newer.Files = "newer"
	if third := fillWithSleep(t, p, newer, 2); len(third) != 2 {
		t.Errorf("for two of an older build there are %d", len(third))
	}
	for _, pid := range []int{first[1], second[0]} {
		if err := store.AwaitExit(t.Context(), pid); err != nil {
			t.Error(err)
		}
	}
	if start, err := store.StartTime(others[0]); err != nil || !store.Alive(others[0], start) {
		t.Error("another configuration's machine was ended")
	}
	counters, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[Reason]int{ReasonDied: 1, ReasonFiles: 2}, counters[Supervisor].Discarded); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := store.AwaitExit(t.Context(), pid); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		_, err := store.StartTime(pid)
		return errors.Is(err, fs.ErrNotExist)
	})
}

func TestDestroyLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pool")
	p := Open(dir)
	if err := p.Destroy(t.Context()); err != nil {
		t.Errorf("no pool: %v", err)
	}
	pids := fillWithSleep(t, p, fit(), 2)
	if err := p.Miss(t.Context(), Shim, ReasonEmpty); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := store.AwaitExit(t.Context(), pid); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
}

// TestDestroyKeepsWhatPodsHave: to remove a directory is to unmount what others have
// mounted there.
func TestDestroyKeepsWhatPodsHave(t *testing.T) {
	p := Open(filepath.Join(t.TempDir(), "pool"))
	slot := occupied(t, p, fit(), 1)[0]
	if err := slot.Leave(t.Context(), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if err := p.Destroy(t.Context()); err != nil { // nor is this process ended
		t.Fatal(err)
	}
	if _, err := os.Stat(slot.MountPoint()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(slot.Remove(), slot.mounts.Close(), p.Destroy(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
}

// TestIdleTurn: a machine that waits for an idle host keeps none of another configuration,
// which shares the directory, from its turn.
func TestIdleTurn(t *testing.T) {
	p := Open(t.TempDir())
	other := fit()
	other.Source = "/d.toml"
	waits, goes := occupied(t, p, fit(), 1)[0], occupied(t, p, other, 1)[0]
	never := request()
	never.Config.Factory.MinMemoryMiB = math.MaxInt32
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() {
		_, err := waits.IdleTurn(ctx, never)
		ended <- err
	}()
	for range 2 {
		now := request()
		now.Now = true
		turn, err := goes.IdleTurn(t.Context(), now)
		if err != nil {
			t.Fatal(err)
		}
		turn.Close()
	}
	enough := errors.New("enough")
	cancel(enough)
	if err := <-ended; !errors.Is(err, enough) {
		t.Errorf("who waits for an idle host: %v", err)
	}
}

func TestOthersDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := Open(dir)
	if _, err := p.Fill(t.Context(), fit(), request(), 1, nil); err == nil {
		t.Error("machines are kept where others could put theirs")
	}
	if err := os.Mkdir(p.machines(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, reason, err := p.Take(t.Context(), fit()); err == nil || reason != ReasonFailed {
		t.Errorf("%q, %v", reason, err)
	}
}

func TestCounters(t *testing.T) {
	p := Open(filepath.Join(t.TempDir(), "pool"))
	var counting sync.WaitGroup
	for range 10 {
		counting.Go(func() {
			if err := errors.Join(p.Hit(t.Context(), Shim), p.Miss(t.Context(), Supervisor, ReasonSize)); err != nil {
				t.Error(err)
			}
		})
	}
	counting.Wait()
	if err := errors.Join(p.Prepared(t.Context(), Shim), p.Failed(t.Context(), Shim, errors.New("why"))); err != nil {
		t.Fatal(err)
	}
	counters, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	shim, commands := counters[Shim], counters[Supervisor]
	if shim.Hits != 10 || shim.Prepared != 1 || shim.Failures != 1 || shim.LastFailure != "why" || !maps.Equal(commands.Misses, map[Reason]int{ReasonSize: 10}) {
		t.Errorf("%+v, %+v", shim, commands)
	}
	if err := os.WriteFile(p.path(countersName), []byte("{"), 0o600); err != nil { // a full file system
		t.Fatal(err)
	}
	if err := p.Hit(t.Context(), Shim); err != nil {
		t.Error(err)
	}
	if counters, err = p.Counters(); err != nil || counters[Shim].Hits != 1 {
		t.Errorf("%v, %v", counters, err)
	}
}
