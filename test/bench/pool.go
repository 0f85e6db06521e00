package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"kata-runtime/test/leak"
)

// pooled compares the start of a container in a machine that was prepared with a cold
// one and with runc's, and the memory of a machine that waits with that of a bare one.
func (b *bench) pooled(ctx context.Context, runs int) (err error) {
	config, dir := filepath.Join(b.dir, "pool.toml"), filepath.Join(b.dir, "pool")
	text := fmt.Sprintf("[factory]\npool_size = 1\nmax_load = 0\nmin_memory = 0\ndir = %q\n", dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	kata := func(args ...string) *exec.Cmd { return b.kata(ctx, append([]string{"--config", config}, args...)...) }
	defer func() {
		_, destroyErr := output(b.kata(context.WithoutCancel(ctx), "--config", config, "factory", "destroy"))
		err = errors.Join(err, destroyErr)
	}()
	if err := b.learnMachine(ctx); err != nil {
		return err
	}
	program, err := b.bundle("/bin/true")
	if err != nil {
		return err
	}
	var pool, cold, runc []time.Duration
	for i := range runs + 1 {
		if i == 1 { // as for starts
			pool, cold, runc = nil, nil, nil
		}
		if _, err := output(kata("factory", "init")); err != nil { // which is not in the way of what follows, either
			return err
		}
		for _, row := range []struct {
			times   *[]time.Duration
			command *exec.Cmd
		}{
			{&cold, b.kata(ctx, "run", "-b", program, b.id())},
			{&runc, b.runc(ctx, "run", "-b", program, b.id())},
			{&pool, kata("run", "-b", program, b.id())},
		} {
			t, err := timed(row.command)
			if err != nil {
				return err
			}
			*row.times = append(*row.times, t)
		}
	}
	if err := b.wantHits(kata, runs+1); err != nil {
		return err
	}
	if err := printPooled(pool, cold, runc); err != nil {
		return err
	}
	if _, err := output(kata("factory", "init")); err != nil {
		return err
	}
	return b.pooledMemory(ctx, kata)
}

// poolStatus is what is looked at of factory status.
type poolStatus struct {
	Machines []struct{ PID int }
	Counters map[string]struct{ Hits, Restored int }
}

func statusOfPool(kata func(...string) *exec.Cmd) (status poolStatus, err error) {
	text, err := output(kata("factory", "status", "--json"))
	if err == nil {
		err = json.Unmarshal([]byte(text), &status)
	}
	return status, err
}

// wantHits makes sure that what was measured is what it seems.
func (b *bench) wantHits(kata func(...string) *exec.Cmd, want int) error {
	status, err := statusOfPool(kata)
	if err != nil {
		return err
	}
	if hits := status.Counters["supervisor"].Hits; hits != want {
		return fmt.Errorf("%d of %d starts have taken a prepared machine", hits, want)
	}
	return nil
}

func printPooled(pool, cold, runc []time.Duration) error {
	fmt.Printf("\nStart of true from the pool, median of %d, alternating\n", len(pool))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tms\tmin\tmax\tpool's ratio to it\t")
	base, _, _ := median(pool)
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{{"kata-runtime run, from the pool", pool}, {"kata-runtime run, cold", cold}, {"runc run", runc}} {
		middle, low, high := median(row.times)
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.2f\t\n", row.name,
			middle.Milliseconds(), low.Milliseconds(), high.Milliseconds(), float64(base)/float64(middle))
	}
	return table.Flush()
}

// sleeper is a first process that does nothing.
const sleeper = `void _start(void) {
	long number = 34, result;
	for (;;) __asm__ volatile("syscall" : "=a"(result) : "a"(number) : "rcx", "r11", "memory");
}
`

// pooledMemory compares what all processes of a machine that waits hold with a bare QEMU
// whose guest does nothing.
func (b *bench) pooledMemory(ctx context.Context, kata func(...string) *exec.Cmd) (err error) {
	status, err := statusOfPool(kata)
	if err != nil {
		return err
	}
	if len(status.Machines) != 1 {
		return fmt.Errorf("the pool has %d machines", len(status.Machines))
	}
	bare, err := b.newBareMachine(sleeper)
	if err != nil {
		return err
	}
	idle := bare(ctx)
	if err := idle.Start(); err != nil {
		return err
	}
	defer func() {
		_ = idle.Process.Kill()
		_ = idle.Wait() // killed
	}()
	if err := awaitIdle(ctx, idle.Process.Pid); err != nil {
		return err
	}
	own, guest, err := pss(idle.Process.Pid)
	if err != nil {
		return err
	}
	all, err := leak.Processes()
	if err != nil {
		return err
	}
	family := []int{status.Machines[0].PID}
	names := map[int]string{family[0]: "supervisor"}
	for i := 0; i < len(family); i++ { // grows by the children
		for _, p := range all {
			if p.PPID == family[i] {
				program, _, _ := strings.Cut(p.Command, " ")
				names[p.PID] = filepath.Base(program)
				family = append(family, p.PID)
			}
		}
	}
	fmt.Println("\nMemory of a prepared machine, PSS, MiB")
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tits own\tguest RAM\t")
	total := 0.0
	for _, pid := range family {
		own, guest, err := pss(pid)
		if err != nil {
			return err
		}
		total += own + guest
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t\n", names[pid], own, guest)
	}
	fmt.Fprintf(table, "a bare idle QEMU\t%.1f\t\t\n", own+guest)
	fmt.Fprintf(table, "more than that\t%.1f\t\t\n", total-own-guest)
	return table.Flush()
}

// awaitIdle waits until a process uses no time any more.
func awaitIdle(ctx context.Context, pid int) error {
	const often, most = time.Second, 2 // ticks of the clock
	ticker := time.NewTicker(often)
	defer ticker.Stop()
	last := -1
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return err
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		used := 0
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			used += ticks
		}
		if last >= 0 && used-last <= most {
			return nil
		}
		last = used
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
