package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/virtiofsd"
)

// confinedRuns is for each run of the other figures: a start takes milliseconds.
const confinedRuns = 10

// confinedChild is a process of a pod that is started confined.
type confinedChild struct {
	name string
	path string
	spec jail.Spec
}

// cost is what a start took: of the clock, and of processors.
type cost struct{ wall, cpu time.Duration }

// confined compares the starts of the VMM and of the file server with and without the
// step that confines them. Both programs say their version and end: all that differs is
// the step.
func (b *bench) confined(ctx context.Context, runs int) error {
	children, err := b.children(ctx)
	if err != nil {
		return err
	}
	runs *= confinedRuns
	fmt.Printf("\nConfined start, ms, median of %d, alternating; the program says its version\n", runs)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tplain\tconfined\tadds\tCPU plain\tCPU confined\tadds\t")
	for _, c := range children {
		var wall, cpu [2][]time.Duration
		for range runs {
			for i, start := range []func(context.Context, confinedChild) (cost, error){b.startPlain, b.startConfined} {
				took, err := start(ctx, c)
				if err != nil {
					return err
				}
				wall[i], cpu[i] = append(wall[i], took.wall), append(cpu[i], took.cpu)
			}
		}
		fmt.Fprintf(table, "%s", c.name)
		for _, times := range [][2][]time.Duration{wall, cpu} {
			plain, _, _ := median(times[0])
			confined, _, _ := median(times[1])
			for _, t := range []time.Duration{plain, confined, confined - plain} {
				fmt.Fprintf(table, "\t%.1f", float64(t.Microseconds())/1000)
			}
		}
		fmt.Fprintln(table, "\t")
	}
	return table.Flush()
}

// children are those of a pod as it is configured.
func (b *bench) children(ctx context.Context) ([]confinedChild, error) {
	settings, err := b.settings(ctx)
	if err != nil {
		return nil, err
	}
	vmm, err := qemu.Find(settings.QEMU.Path)
	if err != nil {
		return nil, err
	}
	if vmm, err = filepath.EvalSymlinks(vmm); err != nil {
		return nil, err
	}
	first, _, err := settings.UserRange()
	if err != nil {
		return nil, err
	}
	options := jail.Options{Dir: filepath.Join(b.dir, "jail"), User: first}
	vmmSpec, err := qemu.JailSpec(ctx, vmm, &qemu.Options{Kernel: settings.Kernel, Initrd: settings.Initrd, Jail: &options})
	if err != nil {
		return nil, err
	}
	daemon, err := virtiofsd.Find("")
	if err != nil {
		return nil, err
	}
	daemonSpec, err := virtiofsd.JailSpec(ctx, daemon.Path, b.dir, options, 1024)
	if err != nil {
		return nil, err
	}
	return []confinedChild{{"VMM", vmm, vmmSpec}, {"file server", daemon.Path, daemonSpec}}, nil
}

func (b *bench) startPlain(ctx context.Context, c confinedChild) (cost, error) {
	return startChild(versionOf(ctx, c))
}

// startConfined starts a child as the runtime under test does.
func (b *bench) startConfined(ctx context.Context, c confinedChild) (cost, error) {
	cmd := versionOf(ctx, c)
	if err := jail.Confine(cmd, c.spec); err != nil {
		return cost{}, err
	}
	cmd.Path = b.program // the step is its, not this program's
	return startChild(cmd)
}

func versionOf(ctx context.Context, c confinedChild) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path, "--version")
	cmd.Dir, cmd.Env, cmd.Stderr = "/", []string{"LC_ALL=C"}, &bytes.Buffer{}
	return cmd
}

func startChild(cmd *exec.Cmd) (cost, error) {
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("start %s: %w: %s", cmd.Path, err, cmd.Stderr)
	}
	return cost{time.Since(begin), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}
