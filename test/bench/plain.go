package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/tail"
	"kata-runtime/hypervisor/virtiofsd"
	"kata-runtime/hypervisor/vsock"
	"kata-runtime/virtcontainers/config"
)

const (
	plainPort    = 1100
	plainTag     = "plain"
	consoleLines = 10
)

// plain is a VM as the runtime makes it, with the same drivers, options, kernel
// and share, and with a single program instead of the agent: what vsock and
// virtiofs give when no runtime stands in between.
type plain struct {
	settings    config.Hypervisor
	accelerator string
	initrd      string
	share       string // directory of the file
	file        string // to read, relative to share
}

// newPlain prepares plain VMs whose guest reads a file of the directory share.
func (b *bench) newPlain(ctx context.Context, share, file string) (*plain, error) {
	settings, err := b.settings(ctx)
	if err != nil {
		return nil, err
	}
	choice, err := accel.Select(ctx, settings.Accelerator)
	if err != nil {
		return nil, err
	}
	initrd, err := b.plainInitrd(ctx)
	if err != nil {
		return nil, err
	}
	return &plain{settings: settings, accelerator: choice.Name, initrd: initrd, share: share, file: file}, nil
}

// settings are those that the runtime under test says to have.
func (b *bench) settings(ctx context.Context) (config.Hypervisor, error) {
	text, err := output(b.kata(ctx, "env"))
	if err != nil {
		return config.Hypervisor{}, err
	}
	path := filepath.Join(b.dir, "configuration.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return config.Hypervisor{}, err
	}
	loaded, err := config.Load(ctx, path)
	if err != nil {
		return config.Hypervisor{}, err
	}
	return loaded.Hypervisor, nil
}

func (b *bench) plainInitrd(ctx context.Context) (string, error) {
	program := filepath.Join(b.dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./test/bench/internal/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", build, err, text)
	}
	path := filepath.Join(b.dir, "plain.img")
	return path, writeInitrd(path, program)
}

// rates are what one VM or container reached, in MiB/s.
type rates struct{ stdout, stdin, read float64 }

// run boots a VM and measures once.
func (p *plain) run(ctx context.Context) (result rates, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("plain VM: %w", err)
		}
	}()
	starter := child.NewStarter()
	defer starter.Close()
	log := slog.New(slog.DiscardHandler)
	host, err := vsock.Open(ctx, vsock.Options{Mode: vsock.Mode(p.settings.Vsock), Log: log})
	if err != nil {
		return rates{}, err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	listener, err := host.Listen(plainPort)
	if err != nil {
		return rates{}, err
	}
	daemon, err := virtiofsd.Start(ctx, virtiofsd.Options{
		SharedDir: p.share, Cache: p.settings.VirtioFSCache,
		Starter: starter, Log: log,
	})
	if err != nil {
		return rates{}, err
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	console := &tail.Buffer{}
	vm, err := p.machine(host, listener, daemon, starter, console)
	if err != nil {
		return rates{}, err
	}
	defer func() { err = errors.Join(err, vm.Stop(context.WithoutCancel(ctx))) }()
	if err := vm.Start(ctx); err != nil {
		return rates{}, err
	}
	// The VM's end, or ctx's, ends every wait for the guest.
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { _ = vm.Wait(ctx); _ = host.Close() })
	defer watch.Wait()
	defer cancel()
	if result, err = measureGuest(listener); err != nil {
		return rates{}, fmt.Errorf("%w; its console: %s", err, strings.Join(console.Lines(consoleLines), "\n"))
	}
	return result, nil
}

func (p *plain) machine(host vsock.Host, listener net.Listener, daemon *virtiofsd.Daemon, starter *child.Starter, console io.Writer) (*qemu.VM, error) {
	return qemu.New(qemu.Options{
		Path: p.settings.QEMU.Path, Name: "kata-bench-plain", Accelerator: p.accelerator,
		Kernel: p.settings.Kernel, Initrd: p.initrd,
		KernelParams: append(strings.Fields(p.settings.KernelParams),
			"BENCH_PORT="+strconv.Itoa(int(hypervisor.DialedPort(listener))),
			"BENCH_MIB="+strconv.Itoa(volumeMiB), "BENCH_TAG="+plainTag, "BENCH_FILE="+p.file),
		Size:    hypervisor.Size{VCPUs: p.settings.DefaultVCPUs, MemoryMiB: p.settings.DefaultMemoryMiB},
		MaxSize: hypervisor.Size{VCPUs: p.settings.MaxVCPUs(), MemoryMiB: p.settings.MaxMemoryMiB()},
		Devices: []hypervisor.Device{
			host.Device(), &hypervisor.Share{ID: "share0", Tag: plainTag, Socket: daemon.Socket()},
		},
		Vsock: host, RootPorts: p.settings.QEMU.PCIeRootPorts, Bridges: p.settings.QEMU.Bridges,
		Console: console, Starter: starter,
	})
}

// measureGuest is the host's part of what the guest does.
func measureGuest(listener net.Listener) (result rates, err error) {
	conn, err := listener.Accept()
	if err != nil {
		return rates{}, err
	}
	defer conn.Close()
	if result.stdout, err = drain(io.LimitReader(conn, volumeMiB<<20)); err != nil {
		return rates{}, err
	}
	lines := bufio.NewReader(conn)
	if result.stdin, err = fill(conn, func() error {
		_, err := lines.ReadString('\n')
		return err
	}); err != nil {
		return rates{}, err
	}
	line, err := lines.ReadString('\n')
	if err != nil {
		return rates{}, err
	}
	took, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		return rates{}, err
	}
	result.read = volumeMiB / took
	return result, nil
}
