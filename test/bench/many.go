package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"
)

const (
	// manyPods are started at once, of which the pool has machines for one in five: the
	// others begin as copies.
	manyPods, pooledOf = 50, 5
)

// preparedPool runs commands with a pool of its own. Once it is sealed, nothing is prepared in
// the place of what is taken.
type preparedPool struct {
	bench        *bench
	config, dir  string
	size         int
	fromTemplate bool
}

func (b *bench) newPool(name string, size int, fromTemplate bool) *preparedPool {
	return &preparedPool{bench: b, config: filepath.Join(b.dir, name+".toml"), dir: filepath.Join(b.dir, name), size: size, fromTemplate: fromTemplate}
}

func (p *preparedPool) kata(ctx context.Context, args ...string) *exec.Cmd {
	return p.bench.kata(ctx, append([]string{"--config", p.config}, args...)...)
}

func (p *preparedPool) write(minMemory int) error {
	text := fmt.Sprintf("[factory]\npool_size = %d\ntemplate = %t\nmax_load = 0\nmin_memory = %d\ndir = %q\n", p.size, p.fromTemplate, minMemory, p.dir)
	return os.WriteFile(p.config, []byte(text), 0o600)
}

// fill waits until the pool is full.
func (p *preparedPool) fill(ctx context.Context) error {
	if err := p.write(0); err != nil {
		return err
	}
	_, err := output(p.kata(ctx, "factory", "init"))
	return err
}

func (p *preparedPool) seal() error { return p.write(16 << 20) }

func (p *preparedPool) destroy(ctx context.Context) error {
	_, err := output(p.kata(context.WithoutCancel(ctx), "factory", "destroy"))
	return err
}

// templated compares the start of a container in a copy of a saved machine with a cold one,
// and tells what such a copy takes while it waits.
func (b *bench) templated(ctx context.Context, runs int) (err error) {
	if err := b.learnMachine(ctx); err != nil {
		return err
	}
	pool := b.newPool("template", 1, true)
	if err := pool.fill(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.destroy(ctx)) }()
	if err := b.pooledMemory(ctx, func(args ...string) *exec.Cmd { return pool.kata(ctx, args...) }); err != nil {
		return err
	}
	if err := pool.seal(); err != nil {
		return err
	}
	program, err := b.bundle("/bin/true")
	if err != nil {
		return err
	}
	var copied, cold []time.Duration
	for i := range runs + 1 { // the first takes what the pool has
		if i == 1 {
			copied, cold = nil, nil
		}
		t, err := timed(pool.kata(ctx, "run", "-b", program, b.id()))
		if err != nil {
			return err
		}
		copied = append(copied, t)
		if t, err = timed(b.kata(ctx, "run", "-b", program, b.id())); err != nil {
			return err
		}
		cold = append(cold, t)
	}
	fmt.Printf("\nStart of true from the template, with an empty pool, median of %d, alternating\n", len(copied))
	base, _, _ := median(cold)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tms\tmin\tmax\tratio to cold\t")
	startRow(table, "kata-runtime run, from the template", copied, base)
	startRow(table, "kata-runtime run, cold", cold, base)
	return table.Flush()
}

func startRow(table *tabwriter.Writer, name string, times []time.Duration, base time.Duration) {
	middle, low, high := median(times)
	fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.2f\t\n", name, middle.Milliseconds(), low.Milliseconds(), high.Milliseconds(), float64(middle)/float64(base))
}

// many starts pods at once, cold and from the pool and the template, and compares the time
// until the last has ended with that of as many cold starts one after the other. How many,
// details may say.
func (b *bench) many(ctx context.Context, runs int, details []string) (err error) {
	pods := manyPods
	if len(details) > 0 {
		if pods, err = strconv.Atoi(details[0]); err != nil || pods < 1 {
			return fmt.Errorf("many starts: %q is no number of pods", details[0])
		}
	}
	pooled := (pods + pooledOf - 1) / pooledOf
	program, err := b.bundle("/bin/true")
	if err != nil {
		return err
	}
	var single []time.Duration
	for range runs + 1 {
		t, err := timed(b.kata(ctx, "run", "-b", program, b.id()))
		if err != nil {
			return err
		}
		single = append(single, t)
	}
	one, _, _ := median(single[1:])
	cold, err := b.atOnce(pods, program, func(args ...string) *exec.Cmd { return b.kata(ctx, args...) })
	if err != nil {
		return err
	}
	pool := b.newPool("many", pooled, true)
	pooledKata := func(args ...string) *exec.Cmd { return pool.kata(ctx, args...) }
	if err := pool.fill(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.destroy(ctx)) }()
	if err := pool.seal(); err != nil {
		return err
	}
	before, err := statusOfPool(pooledKata)
	if err != nil {
		return err
	}
	prepared, err := b.atOnce(pods, program, pooledKata)
	if err != nil {
		return err
	}
	after, err := statusOfPool(pooledKata)
	if err != nil {
		return err
	}
	was, is := before.Counters["supervisor"], after.Counters["supervisor"]
	hits, copies := is.Hits-was.Hits, is.Restored-was.Restored
	name := fmt.Sprintf("%d from the pool, %d from the template", hits, copies)
	if rest := pods - hits - copies; rest > 0 {
		name += fmt.Sprintf(", %d cold all the same", rest)
	}
	fmt.Printf("\n%d starts of true at once, one cold start taking %d ms (median of %d)\n", pods, one.Milliseconds(), runs)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\tfirst, ms\tmedian\tlast\tits ratio to %d cold starts\t\n", pods)
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{{name, prepared}, {"cold", cold}} {
		middle, first, last := median(row.times)
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.2f\t\n", row.name, first.Milliseconds(), middle.Milliseconds(), last.Milliseconds(), float64(last)/float64(time.Duration(pods)*one))
	}
	return table.Flush()
}

// atOnce starts containers at once, and returns when each had ended.
func (b *bench) atOnce(pods int, program string, kata func(...string) *exec.Cmd) ([]time.Duration, error) {
	took, errs := make([]time.Duration, pods), make([]error, pods)
	commands := make([]*exec.Cmd, pods)
	for i := range commands {
		commands[i] = kata("run", "-b", program, b.id())
	}
	begin := time.Now()
	var all sync.WaitGroup
	for i, command := range commands {
		all.Go(func() {
			_, errs[i] = output(command)
			took[i] = time.Since(begin)
		})
	}
	all.Wait()
	return took, errors.Join(errs...)
}
