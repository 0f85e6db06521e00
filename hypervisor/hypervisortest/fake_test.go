package hypervisortest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/hypervisortest"
)

func TestFake(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Driver{
		New: func(_ *testing.T, c hypervisortest.Config) hypervisor.VM {
			o := hypervisortest.FakeOptions{
				Size: c.Size, MaxSize: c.MaxSize, Slots: c.Slots, Console: c.Console, Guest: suiteGuest,
			}
			if c.BrokenKernel {
				o.StartError = &hypervisor.ExitError{VMM: "fake", Status: "exit status 1", Stderr: "no kernel"}
			}
			return hypervisortest.NewFake(o)
		},
		Kill: func(_ *testing.T, vm hypervisor.VM) { vm.(*hypervisortest.Fake).Kill() },
	})
}

// suiteGuest does what the suite's guest does, inside this process.
func suiteGuest(ctx context.Context, g *hypervisortest.FakeGuest) {
	var serving sync.WaitGroup
	defer serving.Wait()
	echo, err := g.Listen(hypervisortest.EchoPort)
	if err != nil {
		return
	}
	commands, err := g.Listen(hypervisortest.CommandPort)
	if err != nil {
		return
	}
	serve := func(l net.Listener, handle func(net.Conn)) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	}
	serving.Go(func() { serve(echo, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }) })
	serving.Go(func() { serve(commands, func(conn net.Conn) { answer(ctx, g, conn) }) })
	g.Print(hypervisortest.UpLine + "\n")
	ready, err := g.Dial(ctx, hypervisortest.ReadyPort)
	if err != nil {
		return
	}
	defer ready.Close()
	<-ctx.Done()
}

func answer(ctx context.Context, g *hypervisortest.FakeGuest, conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		verb, argument, _ := strings.Cut(lines.Text(), " ")
		fmt.Fprintln(conn, do(ctx, g, verb, argument))
	}
}

func do(ctx context.Context, g *hypervisortest.FakeGuest, verb, argument string) string {
	switch verb {
	case "print":
		g.Print(argument + "\n")
		return "printed"
	case "poweroff":
		g.PowerOff()
	case "panic":
		g.Print("Kernel panic - not syncing\n")
		g.Crash()
	case "dial":
		port, _ := strconv.ParseUint(argument, 10, 32)
		conn, err := g.Dial(ctx, uint32(port))
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		return strings.TrimSpace(line)
	default:
		return await(ctx, g, verb, argument)
	}
	return ""
}

// await answers the questions that wait for the machine to change.
func await(ctx context.Context, g *hypervisortest.FakeGuest, verb, argument string) string {
	for {
		devices, size, changed := g.State()
		least, _ := strconv.Atoi(argument)
		switch {
		case verb == "cpus" && size.VCPUs >= least:
			return strconv.Itoa(size.VCPUs)
		case verb == "memory" && size.MemoryMiB >= least:
			return strconv.Itoa(size.MemoryMiB)
		case verb == "gone" && disk(devices, argument) == nil:
			return "gone"
		case verb == "disk" && disk(devices, argument) != nil:
			return describe(disk(devices, argument))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}

func disk(devices []hypervisor.Device, serial string) *hypervisor.Disk {
	for _, d := range devices {
		if disk, ok := d.(*hypervisor.Disk); ok && disk.Serial == serial {
			return disk
		}
	}
	return nil
}

// describe says what a guest reads.
func describe(d *hypervisor.Disk) string {
	block := make([]byte, 512)
	if _, err := d.File.ReadAt(block, 0); err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(string(block), "\n")
	if d.ReadOnly {
		return "ro " + first
	}
	return "rw " + first
}

func TestFakeConnectionsEndWithTheVM(t *testing.T) {
	f := hypervisortest.NewFake(hypervisortest.FakeOptions{})
	l, err := f.Guest().Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := l.Accept()
		accepted <- conn
	}()
	near, err := f.Dial(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	far := <-accepted
	f.Guest().Crash()
	for _, conn := range []net.Conn{near, far} {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlives its VM")
		}
		_ = conn.Close()
	}
	if err := f.Wait(t.Context()); !errors.Is(err, hypervisor.ErrGuestReset) {
		t.Errorf("Wait: %v", err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
