package factory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/sandboxtest"
	"kata-runtime/virtcontainers/sizing"
)

// A copy of a guest's memory has all that is not zero, and takes room for nothing else.
func TestCopyMemory(t *testing.T) {
	from, err := newMemory(8)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	page := bytes.Repeat([]byte{1}, pageSize)
	for _, at := range []int64{0, 3 * pageSize, copySize - pageSize, copySize, 4 << 20, 8<<20 - pageSize} {
		if _, err := from.WriteAt(page, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := from.WriteAt(make([]byte, 1<<20), 5<<20); err != nil { // what a guest has cleared
		t.Fatal(err)
	}
	if _, err := from.WriteAt([]byte{7}, 6<<20+17); err != nil { // and used again
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("/proc/self/fd", fd(from)))
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	again, err := newMemory(8)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := errors.Join(copyMemory(to, from), copyMemory(again, to)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []*os.File{to, again} {
		got, err := os.ReadFile(filepath.Join("/proc/self/fd", fd(file)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", file.Name(), len(got), err)
		}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(again.Fd()), &stat); err != nil || stat.Blocks*512 != 7*pageSize {
		t.Errorf("it takes %d bytes, %v", stat.Blocks*512, err)
	}
}

func fd(file *os.File) string { return strconv.Itoa(int(file.Fd())) }

// What a template cannot be for is not restored, and without one it is told why.
func TestNoTemplateForThePod(t *testing.T) {
	settings := config.Default()
	settings.Factory.Dir, settings.Factory.Template, settings.Factory.PoolSize = t.TempDir(), true, 1
	for want, change := range map[pool.Reason]func(*Spec){
		pool.ReasonHostNetwork: func(s *Spec) { s.HostNetwork = true },
		pool.ReasonSize: func(s *Spec) {
			own := *settings
			own.Runtime.StaticSandboxResources = true
			s.Config, s.SandboxDemand = &own, sizing.Demand{MemoryBytes: 1 << 30}
		},
		pool.ReasonEmpty: func(*Spec) {},
	} {
		t.Run(string(want), func(t *testing.T) {
			spec := podSpec(settings)
			spec.Kind = pool.Supervisor
			change(&spec)
			made, reason, err := restore(t.Context(), spec, assemble, func(*assembled) error { return nil })
			if made != nil || reason != want || err != nil {
				t.Errorf("%v, %q, %v", made, reason, err)
			}
			countRestored(t.Context(), spec, reason, err)
			counters, err := pool.Open(spec.Config.Factory.Dir).Counters()
			if err != nil || counters[pool.Supervisor].Booted[want] != 1 {
				t.Errorf("%+v, %v", counters[pool.Supervisor], err)
			}
		})
	}
}

// A pod that is given up while the pool is asked has no machine, and an error.
func TestGivenUpWhileRestoring(t *testing.T) {
	settings := config.Default()
	settings.Factory.Dir, settings.Factory.Template, settings.Factory.PoolSize = t.TempDir(), true, 1
	spec := podSpec(settings)
	ctx, cancel := context.WithCancelCause(t.Context())
	given := errors.New("given up")
	cancel(given)
	made, err := bootOrRestore(ctx, spec, func(*assembled) error { return nil })
	if made != nil || !errors.Is(err, given) {
		t.Errorf("%v, %v", made, err)
	}
}

// A template stays when it is the host that cannot make a machine.
func TestWhatBlamesTheTemplate(t *testing.T) {
	failed := func(cause error) error {
		return fmt.Errorf("restore: %w", &virtcontainers.StageError{Stage: virtcontainers.StageStartVMM, Err: cause})
	}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{failed(errors.New("QEMU does not take it")), true},
		{errors.Join(failed(context.DeadlineExceeded), errors.New("and more")), true},
		{failed(machine.ErrNoTemplate), false},
		{unix.ENOMEM, false},
		{fmt.Errorf("make a socket pair: %w", unix.EMFILE), false},
	} {
		if got := blamesTemplate(test.err); got != test.want {
			t.Errorf("%v: %t", test.err, got)
		}
	}
}

// copies is a pool with a template, and makes copies of that: guests of tests.
type copies struct {
	t        *testing.T
	machines *pool.Pool
	spec     Spec
	fit      pool.Fit
}

func newCopies(t *testing.T) *copies {
	t.Helper()
	settings := config.Default()
	settings.Factory.Dir, settings.Factory.Template, settings.Factory.PoolSize = t.TempDir(), true, 1
	c := &copies{t: t, machines: pool.Open(settings.Factory.Dir), spec: podSpec(settings)}
	c.spec.Kind, c.spec.ShareDir = pool.Supervisor, filepath.Join(t.TempDir(), "share")
	var err error
	if c.fit, err = Describe(c.spec.Kind, settings, self); err != nil {
		t.Fatal(err)
	}
	slot := occupy(t, c.machines, c.fit, settings)
	err = slot.SaveTemplate(t.Context(), c.fit, func(memory *os.File) ([]byte, error) {
		return []byte("state"), memory.Truncate(pageSize)
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// make makes a copy whose guest answers so, for which it has that long, and tells whether
// it runs.
func (c *copies) make(hello sandboxtest.Hook, patience time.Duration) bool {
	c.t.Helper()
	made, reason, err := restore(c.t.Context(), c.spec, func(_ context.Context, spec Spec, saved *machine.Saved) (*assembled, error) {
		guest := sandboxtest.NewGuest()
		guest.On("Hello", hello)
		sandbox := virtcontainers.NewSandbox(virtcontainers.SandboxOptions{
			Machine: guest.Machine, Restored: saved != nil, BootTimeout: patience, Log: spec.Log,
		})
		return &assembled{sandbox: sandbox, machine: fakeMachine{guest.Machine}, share: guest.Share}, nil
	}, func(*assembled) error { return nil })
	if made == nil {
		if reason != pool.ReasonFailed || err == nil {
			c.t.Errorf("%q, %v", reason, err)
		}
		return false
	}
	if err := made.stop(c.t.Context()); err != nil {
		c.t.Error(err)
	}
	return true
}

// wantTemplate compares whether there is a template still.
func (c *copies) wantTemplate(want bool) {
	c.t.Helper()
	list, err := c.machines.Templates()
	if err != nil || (len(list) == 1) != want {
		c.t.Fatalf("%d templates, %v; want %t", len(list), err, want)
	}
}

// A host that is busy is no reason to drop a template: until several copies were late one
// after the other, and none has answered.
func TestLateCopies(t *testing.T) {
	c := newCopies(t)
	late := func(ctx context.Context, _ any) error {
		<-ctx.Done()
		return ctx.Err()
	}
	wantCopy := func(want bool, hello sandboxtest.Hook, patience time.Duration) {
		t.Helper()
		if got := c.make(hello, patience); got != want {
			t.Fatalf("the copy runs: %t, want %t", got, want)
		}
	}
	for range 2 {
		wantCopy(false, late, time.Millisecond)
		c.wantTemplate(true)
	}
	wantCopy(true, nil, time.Minute)
	for range 2 { // all over again
		wantCopy(false, late, time.Millisecond)
		c.wantTemplate(true)
	}
	wantCopy(false, late, time.Millisecond)
	c.wantTemplate(false)
}

// A copy that fails, however long it may take, is the template's fault.
func TestACopyThatFails(t *testing.T) {
	c := newCopies(t)
	if c.make(func(context.Context, any) error { return errors.New("broken") }, time.Minute) {
		t.Error("it runs")
	}
	c.wantTemplate(false)
}
