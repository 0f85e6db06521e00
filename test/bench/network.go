package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/tail"
	"kata-runtime/test/bundle"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/network"
)

const networkRounds = 7

// network compares what the host and a guest reach over the guest's network
// interface: a container on a veth pair, as most network plugins make one; a
// plain VM that is tied to a veth pair by the same tap and traffic control; a
// plain VM whose tap has the host's address itself, which is the shortest way
// there is; and runc's container on a veth pair.
func (b *bench) network(ctx context.Context) (err error) {
	files, err := iperfFiles(ctx)
	if err != nil {
		return err
	}
	var peers []*iperfPeer
	defer func() {
		for _, p := range slices.Backward(peers) {
			err = errors.Join(err, p.stop())
		}
	}()
	for _, start := range []func() (*iperfPeer, error){
		func() (*iperfPeer, error) { return b.serveContained(ctx, b.kata, files) },
		func() (*iperfPeer, error) { return b.servePlain(ctx, files, onVeth) },
		func() (*iperfPeer, error) { return b.servePlain(ctx, files, onTap) },
		func() (*iperfPeer, error) { return b.serveContained(ctx, b.runc, files) },
	} {
		p, err := start()
		if err != nil {
			return err
		}
		peers = append(peers, p)
	}
	all := make([][]flow, len(peers))
	for range networkRounds {
		for i, p := range peers {
			f, err := p.measure(ctx)
			if err != nil {
				return err
			}
			all[i] = append(all[i], f)
		}
	}
	return printNetwork(all)
}

// printNetwork prints what the runtime gave, and then each of the others, in
// the order of network.
func printNetwork(all [][]flow) error {
	fmt.Printf("\nNetwork, iperf3 (TCP) for %d s and %d pings, median of %d, alternating; containers are on a veth pair;\n"+
		"plain is a VM without the runtime on the same veth and tap, tap alone one whose tap has the host's address\n",
		iperfSeconds, pings, len(all[0]))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tkata-runtime\tmin\tmax\tplain\tratio\ttap alone\tratio\trunc\tratio\t")
	for _, row := range []struct {
		name string
		of   func(flow) float64
	}{
		{"host to guest, MiB/s", func(f flow) float64 { return f.toGuest }},
		{"guest to host, MiB/s", func(f flow) float64 { return f.toHost }},
		{"round trip, µs", func(f flow) float64 { return float64(f.roundTrip) / float64(time.Microsecond) }},
	} {
		middle := func(flows []flow) (m, low, high float64) {
			values := make([]float64, len(flows))
			for i, f := range flows {
				values[i] = row.of(f)
			}
			return median(values)
		}
		ours, low, high := middle(all[0])
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t", row.name, ours, low, high)
		for _, others := range all[1:] {
			theirs, _, _ := middle(others)
			fmt.Fprintf(table, "%.0f\t%.2f\t", theirs, ours/theirs)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}

// serveContained starts a container with iperf3's server on a network of its
// own.
func (b *bench) serveContained(ctx context.Context, run runtime, files []fileCopy) (_ *iperfPeer, err error) {
	w, err := newWire()
	if err != nil {
		return nil, err
	}
	p := &iperfPeer{from: w.host, output: &tail.Buffer{}, stop: w.close}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	spec := bundle.Spec(iperfServer()...)
	spec.Process.Env = append(spec.Process.Env, "TMPDIR=/dev/shm") // the buffers' file stays in memory
	bundle.Namespace(spec, specs.NetworkNamespace).Path = w.path()
	dir, err := b.bundleOf(spec)
	if err != nil {
		return nil, err
	}
	if err := installFiles(filepath.Join(dir, "rootfs"), files); err != nil {
		return nil, err
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	id := b.id()
	command := run(ctx, "run", "--detach", "-b", dir, id)
	command.Stdout = to
	_, err = b.quiet(command)
	err = errors.Join(err, to.Close())
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	ended, cancel := context.WithCancel(ctx)
	p.wait = func(text string) error { return p.output.WaitLine(ended, text) }
	var copier sync.WaitGroup
	copier.Go(func() { _, _ = io.Copy(p.output, from); cancel() })
	p.stop = func() error {
		err := (&pod{run: run}).remove(ctx, id)
		cancel()
		from.Close()
		copier.Wait()
		return errors.Join(err, w.close())
	}
	return p, nil
}

// servePlain starts a VM with iperf3's server and no runtime. It has one NIC,
// on a tap as the runtime makes them; attach ties that to what stands for the
// host, and says how to undo it once the VM has ended.
func (b *bench) servePlain(
	ctx context.Context, files []fileCopy, attach func(*network.Tap) (host *network.Namespace, detach func() error, err error),
) (_ *iperfPeer, err error) {
	var undo []func() error
	stop := func() error {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("plain VM: %w", err), stop())
		}
	}()
	settings, err := b.settings(ctx)
	if err != nil {
		return nil, err
	}
	tap, err := network.NewTap(settings.DefaultVCPUs, !settings.DisableVhostNet)
	if err != nil {
		return nil, err
	}
	undo = append(undo, tap.Close)
	host, detach, err := attach(tap)
	if err != nil {
		return nil, err
	}
	undo = append(undo, detach)
	starter := child.NewStarter()
	undo = append(undo, func() error { starter.Close(); return nil })
	console := &tail.Buffer{}
	vm, err := b.networkVM(ctx, settings, files, tap, starter, console)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return vm.Stop(context.WithoutCancel(ctx)) })
	if err := vm.Start(ctx); err != nil {
		return nil, err
	}
	ended, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { _ = vm.Wait(ended); cancel() })
	undo = append(undo, func() error { cancel(); watch.Wait(); return nil })
	wait := func(text string) error { return console.WaitLine(ended, text) }
	return &iperfPeer{from: host, output: console, wait: wait, stop: stop}, nil
}

// onTap gives the tap itself the host's address, in the namespace that it has.
func onTap(tap *network.Tap) (*network.Namespace, func() error, error) {
	host, err := namespaceOf(tap)
	if err != nil {
		return nil, nil, err
	}
	if err := host.Do(func() error {
		name, err := tapName()
		if err != nil {
			return err
		}
		return setUp(name, hostAddress+prefix)
	}); err != nil {
		return nil, nil, errors.Join(err, host.Close())
	}
	return host, host.Close, nil
}

// onVeth ties the tap to a veth pair as the runtime does.
func onVeth(tap *network.Tap) (_ *network.Namespace, _ func() error, err error) {
	w, err := newWire()
	if err != nil {
		return nil, nil, err
	}
	pod, err := network.OpenNamespace(w.path())
	if err != nil {
		return nil, nil, errors.Join(err, w.close())
	}
	joined, err := network.Join(pod, network.Options{
		Model: network.ModelTC, Spare: []*network.Tap{tap}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, nil, errors.Join(err, w.close())
	}
	detach := func() error { return errors.Join(joined.Close(), w.close()) }
	if err := joined.Prepare(); err != nil {
		return nil, nil, errors.Join(err, detach())
	}
	return w.host, detach, nil
}

// networkVM is a VM as the runtime makes it with one NIC and nothing else.
func (b *bench) networkVM(
	ctx context.Context, settings config.Hypervisor, files []fileCopy, tap *network.Tap, starter *child.Starter, console io.Writer,
) (*qemu.VM, error) {
	choice, err := accel.Select(ctx, settings.Accelerator)
	if err != nil {
		return nil, err
	}
	initrd, err := b.networkInitrd(files)
	if err != nil {
		return nil, err
	}
	return qemu.New(qemu.Options{
		Path: settings.QEMU.Path, Name: "kata-bench-network", Accelerator: choice.Name,
		Kernel: settings.Kernel, Initrd: initrd, KernelParams: strings.Fields(settings.KernelParams),
		Size:    hypervisor.Size{VCPUs: settings.DefaultVCPUs, MemoryMiB: settings.DefaultMemoryMiB},
		MaxSize: hypervisor.Size{VCPUs: settings.MaxVCPUs(), MemoryMiB: settings.MaxMemoryMiB()},
		Devices: []hypervisor.Device{tap.NIC("nic0")}, RootPorts: settings.QEMU.PCIeRootPorts, Bridges: settings.QEMU.Bridges,
		Console: console, Starter: starter, Log: slog.New(slog.DiscardHandler),
	})
}

// networkInitrd has busybox, iperf3 and a script as first process.
func (b *bench) networkInitrd(files []fileCopy) (string, error) {
	shell, err := os.ReadFile(bundle.Busybox)
	if err != nil {
		return "", err
	}
	script := filepath.Join(b.dir, "network-init")
	text := fmt.Sprintf(`#!%[1]s sh
%[1]s mount -t devtmpfs dev /dev
%[1]s ip link set lo up
%[1]s ip addr add %[2]s dev %[3]s
%[1]s ip link set %[3]s up
export TMPDIR=/dev
exec %[4]s
`, bundle.Busybox, guestAddress+prefix, guestInterface, strings.Join(iperfServer(), " "))
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, "network.img")
	return path, writeInitrd(path, script, records(append(slices.Clip(files), fileCopy{bundle.Busybox, shell}))...)
}
