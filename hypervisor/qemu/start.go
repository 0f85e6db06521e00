package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/qmp"
	"kata-runtime/hypervisor/tail"
	"kata-runtime/hypervisor/tsc"
)

// stderrGrace is how long standard error is read after QEMU has ended, should
// another process hold it.
const stderrGrace = time.Second

// killTimeout bounds the wait for a QEMU that was killed. It has more memory to
// release than any other process.
const killTimeout = 2 * child.KillTimeout

// channelGrace is how long QEMU's channels are read after it has ended. Their other
// ends go with it, unless it has sent them to another process, such as the file
// server's, before.
const channelGrace = 2 * time.Second

// lastLines is how many lines of standard error an error quotes.
const lastLines = 5

// launched is a QEMU process and this process's ends of its channels.
type launched struct {
	cmd     *exec.Cmd
	qmp     net.Conn
	console net.Conn
	stderr  *tail.Buffer
}

// Start launches QEMU, and returns when it answers; see hypervisor.VM. ctx's
// end, or an error, ends the VM.
func (vm *VM) Start(ctx context.Context) error {
	vm.mu.Lock()
	switch vm.phase {
	case phaseNew:
		vm.phase = phaseStarting
	case phaseStarting, phaseRunning:
		vm.mu.Unlock()
		return fmt.Errorf("start VM %s: %w", vm.opts.Name, hypervisor.ErrStarted)
	case phaseStopping, phaseEnded:
		vm.mu.Unlock()
		return fmt.Errorf("start VM %s: %w", vm.opts.Name, hypervisor.ErrEnded)
	}
	vm.mu.Unlock()
	if err := vm.start(ctx); err != nil {
		return fmt.Errorf("start VM %s: %w", vm.opts.Name, err)
	}
	return nil
}

func (vm *VM) start(ctx context.Context) error {
	process, err := vm.launch(ctx)
	if err != nil {
		vm.conclude(err)
		return err
	}
	connected := make(chan *qmp.Client, 1)
	go vm.monitor(process, connected)
	client, err := qmp.New(ctx, process.qmp, vm.handle)
	connected <- client
	if err == nil {
		err = vm.markRunning(ctx, client)
	}
	if err == nil {
		return nil
	}
	// A QEMU that is gone has said why. One that is silent or was given up is
	// ended here.
	if ctx.Err() != nil {
		_ = process.cmd.Process.Kill()
	} else if gone := vm.awaitExit(); gone != nil {
		return gone
	}
	_ = process.cmd.Process.Kill()
	stays := child.AwaitKilled(context.WithoutCancel(ctx), "QEMU", process.cmd.Process.Pid, vm.ended, killTimeout)
	return errors.Join(fmt.Errorf("QEMU does not answer: %w%s", err, quoteTail(process.stderr)), stays)
}

// awaitExit gives a QEMU that closed its QMP connection the time to exit, and
// returns how it ended.
func (vm *VM) awaitExit() error {
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-vm.ended:
		vm.mu.Lock()
		defer vm.mu.Unlock()
		if vm.outcome == nil {
			return hypervisor.ErrEnded
		}
		return vm.outcome
	case <-timer.C:
		return nil
	}
}

func quoteTail(b *tail.Buffer) string {
	lines := b.Lines(lastLines)
	if len(lines) == 0 {
		return ""
	}
	return fmt.Sprintf(": %q", strings.Join(lines, "\n"))
}

// launch starts the process. On an error nothing is left.
func (vm *VM) launch(ctx context.Context) (_ *launched, err error) {
	ours, theirs, err := socketPair("qmp")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	console, theirConsole, err := socketPair("console")
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	defer theirConsole.Close()
	defer func() {
		if err != nil {
			_ = ours.Close()
			_ = console.Close()
		}
	}()
	if vm.opts.Accelerator == accel.TCG {
		vm.opts.counterKHz = tsc.Frequency()
	}
	args, files, err := Arguments(vm.opts, Channels{QMP: theirs, Console: theirConsole})
	if err != nil {
		return nil, err
	}
	p := &launched{qmp: ours, console: console, stderr: &tail.Buffer{}}
	// The VM outlives the call, so ctx must not end the process.
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), vm.path, args...)
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	p.cmd.Dir = "/"
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = stderrGrace
	vm.opts.Log.DebugContext(ctx, "start QEMU", "path", vm.path, "arguments", args)
	if err := confine(ctx, p.cmd, &vm.opts); err != nil {
		return nil, err
	}
	if err := vm.fork(p.cmd); err != nil {
		return nil, err
	}
	return p, nil
}

// fork starts the process, unless Stop came first.
func (vm *VM) fork(cmd *exec.Cmd) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.phase != phaseStarting {
		return hypervisor.ErrEnded
	}
	if err := vm.starter.Start(cmd); err != nil {
		return err
	}
	vm.process = cmd.Process
	vm.info.PID = cmd.Process.Pid
	closeAll(vm.coldFiles)
	vm.coldFiles = nil
	return nil
}

// markRunning learns what Info tells, and lets the VM be used.
func (vm *VM) markRunning(ctx context.Context, client *qmp.Client) error {
	threads, err := vm.vcpuThreads(ctx, client)
	if err != nil {
		return err
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.phase != phaseStarting {
		return hypervisor.ErrEnded
	}
	vm.client = client
	vm.info.Version = client.Version().String()
	vm.info.VCPUThreads = threads
	vm.phase = phaseRunning
	return nil
}

// monitor waits for the process and all that belongs to it, then concludes.
func (vm *VM) monitor(p *launched, connected <-chan *qmp.Client) {
	var console sync.WaitGroup
	console.Go(func() {
		_, _ = io.Copy(lossless{vm.opts.Console}, p.console)
		_ = p.console.Close()
	})
	err := p.cmd.Wait()
	// Both readers find the end, after the last event and the last line.
	deadline := time.Now().Add(channelGrace)
	_ = p.qmp.SetReadDeadline(deadline)
	_ = p.console.SetReadDeadline(deadline)
	if client := <-connected; client != nil {
		<-client.Done()
		_ = client.Close()
	}
	console.Wait()
	vm.conclude(vm.verdict(err, p))
}

// lossless goes on after an error of the writer's: the guest must not be
// stopped by a console that nobody can store.
type lossless struct{ io.Writer }

func (l lossless) Write(p []byte) (int, error) {
	_, _ = l.Writer.Write(p)
	return len(p), nil
}

// verdict says what QEMU's end means.
func (vm *VM) verdict(waitErr error, p *launched) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	status := p.cmd.ProcessState
	switch {
	case vm.phase == phaseStopping:
		return nil
	case status != nil && status.Success() && vm.shutdown == "guest-shutdown":
		return nil
	case status != nil && status.Success() && (vm.shutdown == "guest-reset" || vm.shutdown == "guest-panic"):
		return fmt.Errorf("%w: %w (%s)", hypervisor.ErrEnded, hypervisor.ErrGuestReset, vm.shutdown)
	}
	text := "unknown"
	if status != nil {
		text = status.String()
	} else if waitErr != nil {
		text = waitErr.Error()
	}
	return &hypervisor.ExitError{
		VMM: "QEMU", Status: text, Stderr: strings.Join(p.stderr.Lines(lastLines), "\n"),
	}
}

// conclude releases what the VM holds and tells everyone that it has ended. Its
// first call counts.
func (vm *VM) conclude(outcome error) {
	vm.mu.Lock()
	if vm.phase == phaseEnded {
		vm.mu.Unlock()
		return
	}
	vm.phase = phaseEnded
	vm.outcome = outcome
	closeAll(vm.coldFiles)
	vm.coldFiles = nil
	listeners := vm.listeners
	vm.listeners = make(map[*listener]struct{})
	vm.mu.Unlock()
	for l := range listeners {
		_ = l.Listener.Close()
	}
	if vm.ownStarter {
		vm.starter.Close()
	}
	if outcome != nil {
		vm.opts.Log.Debug("QEMU ended", "vm", vm.opts.Name, "reason", outcome)
	}
	// Last of all: whoever waits for it may take away what the VM writes to.
	close(vm.ended)
}
