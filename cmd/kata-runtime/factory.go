package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/metrics/exposition"
)

// shimName is containerd's shim, which lies beside this program.
const shimName = "containerd-shim-kata-v2"

// shimPreparedCommand is its hidden first argument for a prepared machine.
const shimPreparedCommand = "prepared"

func factoryCommand() *cli.Command {
	list := []*cli.Command{
		{
			Name:  "init",
			Usage: "prepare as many machines as the configuration says (pool_size in [factory]), and wait for them",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "for", Value: "runtime", Usage: "`FRONT-END` that is to use them: runtime (podman, docker, CRI-O, people) or shim (containerd)"},
				&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Usage: "how long to wait"},
			},
			Action: factoryInit,
		},
		{
			Name:   "status",
			Usage:  "list the prepared machines, and tell how many pods have taken one",
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}},
			Action: factoryStatus,
		},
		{
			Name:  "destroy",
			Usage: "end the prepared machines that no pod has taken",
			Action: func(c *cli.Context) error {
				settings, err := config.Load(c.Context, c.String("config"))
				if err != nil {
					return err
				}
				return pool.Open(settings.Factory.Dir).Destroy(c.Context)
			},
		},
	}
	for _, command := range list {
		command.HideHelpCommand = true
		command.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return err }
	}
	return &cli.Command{Name: "factory", Usage: "prepare machines before there are pods for them", Subcommands: list}
}

// frontEnd is who a pool is for.
type frontEnd struct {
	kind pool.Kind
	// program is its path; args, its first arguments as the process of a machine.
	program string
	args    []string
}

func findFrontEnd(name string) (frontEnd, error) {
	switch name {
	case "runtime":
		return frontEnd{pool.Supervisor, "/proc/self/exe", []string{"kata-runtime", preparedCommand}}, nil
	case "shim":
		executable, err := os.Executable()
		if err != nil {
			return frontEnd{}, fmt.Errorf("find this program's own path: %w", err)
		}
		program := filepath.Join(filepath.Dir(executable), shimName)
		return frontEnd{pool.Shim, program, []string{shimName, shimPreparedCommand}}, nil
	default:
		return frontEnd{}, fmt.Errorf("--for is %q, not runtime or shim", name)
	}
}

func factoryInit(c *cli.Context) error {
	settings, err := loadConfig(c)
	if err != nil {
		return err
	}
	if settings.Factory.PoolSize == 0 {
		return errors.New("no machines are wanted: set pool_size in [factory]")
	}
	front, err := findFrontEnd(c.String("for"))
	if err != nil {
		return err
	}
	fit, err := factory.Describe(front.kind, settings, front.program)
	if err != nil {
		return err
	}
	machines := pool.Open(settings.Factory.Dir)
	before, err := machines.Counters()
	if err != nil {
		return err
	}
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer nothing.Close()
	request := pool.Request{Config: settings, Now: true}
	started, err := machines.Fill(c.Context, fit, request, settings.Factory.PoolSize, func(dir, name string, lock *os.File) (int, error) {
		cmd := exec.Command(front.program) //nolint:noctx // it outlives this command
		cmd.Args = append(slices.Clone(front.args), dir, name)
		return forkPrepared(cmd, lock, nothing)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(c.Context, c.Duration("timeout"), fmt.Errorf("they are not ready after %v", c.Duration("timeout")))
	defer cancel()
	return awaitMachines(ctx, machines, fit, before[fit.Kind], started)
}

// awaitMachines waits until every machine that fits is ready. Some were started; before are
// the counts of before that, nil for none.
func awaitMachines(ctx context.Context, machines *pool.Pool, fit pool.Fit, before *pool.Counts, started int) error {
	if before == nil {
		before = &pool.Counts{}
	}
	const often = 50 * time.Millisecond
	ticker := time.NewTicker(often)
	defer ticker.Stop()
	for {
		records, err := machines.List()
		if err != nil {
			return err
		}
		after, err := machines.Counters()
		if err != nil {
			return err
		}
		now := after[fit.Kind]
		if now == nil {
			now = &pool.Counts{}
		}
		if now.Failures > before.Failures {
			return fmt.Errorf("prepare a machine: %s", now.LastFailure)
		}
		if !slices.ContainsFunc(records, func(r pool.Record) bool { return r.Fit == fit && r.State != pool.Ready }) {
			if ready := now.Prepared - before.Prepared; ready < started { // the host's lack of memory, or whoever destroys the pool
				return fmt.Errorf("prepare machines: of %d processes, %d have ended before their machine was ready: something has killed them", started, started-max(ready, 0))
			}
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the machines: %w", context.Cause(ctx))
		}
	}
}

// factoryView is factory status as JSON.
type factoryView struct {
	Dir      string        `json:"dir"`
	PoolSize int           `json:"poolSize"`
	Machines []machineView `json:"machines"`
	// Templates are the saved machines.
	Templates []templateView `json:"templates"`
	Counters  pool.Counters  `json:"counters"`
}

type templateView struct {
	For  pool.Kind `json:"for"`
	Made time.Time `json:"made"`
	// Bytes is what it takes of memory.
	Bytes int64 `json:"bytes"`
	// Misfit is why a pod with this configuration could not start from it.
	Misfit pool.Reason `json:"misfit,omitempty"`
}

type machineView struct {
	Name  string     `json:"name"`
	For   pool.Kind  `json:"for"`
	State pool.State `json:"state"`
	PID   int        `json:"pid"`
	Since time.Time  `json:"since"`
	// Misfit is why a pod with this configuration could not take it.
	Misfit pool.Reason `json:"misfit,omitempty"`
}

func factoryStatus(c *cli.Context) error {
	settings, err := loadConfig(c)
	if err != nil {
		return err
	}
	machines := pool.Open(settings.Factory.Dir)
	view := factoryView{Dir: settings.Factory.Dir, PoolSize: settings.Factory.PoolSize, Machines: []machineView{}, Templates: []templateView{}}
	if view.Counters, err = machines.Counters(); err != nil {
		return err
	}
	records, err := machines.List()
	if err != nil {
		return err
	}
	fits := make(map[pool.Kind]pool.Fit)
	for _, name := range []string{"runtime", "shim"} {
		front, err := findFrontEnd(name)
		if err != nil {
			return err
		}
		if fit, err := factory.Describe(front.kind, settings, front.program); err == nil { // the shim may not be installed
			fits[front.kind] = fit
		}
	}
	for _, r := range records {
		view.Machines = append(view.Machines, machineView{
			Name: r.Name, For: r.Fit.Kind, State: r.State, PID: r.PID, Since: r.Since, Misfit: r.Fit.Misfit(fits[r.Fit.Kind]),
		})
	}
	templates, err := machines.Templates()
	if err != nil {
		return err
	}
	for _, t := range templates {
		fit := fits[t.Fit.Kind]
		fit.Surroundings = t.Fit.Surroundings // there is nothing of them in it
		view.Templates = append(view.Templates, templateView{For: t.Fit.Kind, Made: t.Made, Bytes: t.Bytes, Misfit: t.Fit.Misfit(fit)})
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, view)
	}
	return printFactory(c, view)
}

func printFactory(c *cli.Context, view factoryView) error {
	table := tabwriter.NewWriter(c.App.Writer, 12, 1, 3, ' ', 0)
	fmt.Fprintln(table, "MACHINE\tFOR\tSTATE\tPID\tSINCE\tFITS")
	for _, m := range view.Machines {
		fits := "yes"
		if m.Misfit != "" {
			fits = "no: " + string(m.Misfit)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", m.Name, m.For, m.State, m.PID, m.Since.Format(time.RFC3339), fits)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, t := range view.Templates {
		fits := "fits"
		if t.Misfit != "" {
			fits = "does not fit: " + string(t.Misfit)
		}
		fmt.Fprintf(c.App.Writer, "%s: template of %s, %d MiB, %s\n", t.For, t.Made.Format(time.RFC3339), t.Bytes>>20, fits)
	}
	for _, kind := range slices.Sorted(maps.Keys(view.Counters)) {
		counts := view.Counters[kind]
		fmt.Fprintf(c.App.Writer, "%s: %d taken, cold: %s; %d prepared, thrown away: %s; %d failed", kind,
			counts.Hits, reasons(counts.Misses), counts.Prepared, reasons(counts.Discarded), counts.Failures)
		if counts.LastFailure != "" {
			fmt.Fprintf(c.App.Writer, ", last %s: %s", counts.LastFailureAt.Format(time.RFC3339), counts.LastFailure)
		}
		if counts.Restored > 0 || len(counts.Booted) > 0 {
			fmt.Fprintf(c.App.Writer, "; %d from a template, booted instead: %s", counts.Restored, reasons(counts.Booted))
		}
		if counts.LastTemplateFailure != "" {
			fmt.Fprintf(c.App.Writer, ", last %s: %s", counts.LastTemplateFailureAt.Format(time.RFC3339), counts.LastTemplateFailure)
		}
		fmt.Fprintln(c.App.Writer)
	}
	return nil
}

// reasons lists counts by reason: "2 empty, 1 died".
func reasons(counts map[pool.Reason]int) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[reason], reason))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// factorySamples measures the pool that the configuration names.
func factorySamples(c *cli.Context) []metrics.Sample {
	settings, err := config.Load(c.Context, c.String("config"))
	var counters pool.Counters
	var records []pool.Record
	if err == nil {
		machines := pool.Open(settings.Factory.Dir)
		if counters, err = machines.Counters(); err == nil {
			records, err = machines.List()
		}
	}
	if err != nil {
		logger(c).Warn("prepared machines are not measured", "error", err)
		return nil
	}
	var samples []metrics.Sample
	add := func(name string, value int, labels ...string) {
		samples = append(samples, metrics.Sample{Name: name, Labels: labels, Value: float64(value)})
	}
	states := make(map[[2]string]int)
	for _, r := range records {
		states[[2]string{string(r.Fit.Kind), string(r.State)}]++
	}
	for labels, n := range states {
		add(exposition.FactoryMachines, n, labels[:]...)
	}
	for kind, counts := range counters {
		add(exposition.FactoryHits, counts.Hits, string(kind))
		add(exposition.FactoryPrepared, counts.Prepared, string(kind))
		add(exposition.FactoryFailures, counts.Failures, string(kind))
		add(exposition.FactoryRestored, counts.Restored, string(kind))
		for reason, n := range counts.Booted {
			add(exposition.FactoryBooted, n, string(kind), string(reason))
		}
		for reason, n := range counts.Misses {
			add(exposition.FactoryMisses, n, string(kind), string(reason))
		}
		for reason, n := range counts.Discarded {
			add(exposition.FactoryDiscarded, n, string(kind), string(reason))
		}
	}
	return samples
}
