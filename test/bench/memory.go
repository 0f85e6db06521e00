package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"kata-runtime/test/leak"
)

// members is how many containers join a pod to find out what one more takes.
const members = 4

// memory runs a pod with one idle container and prints what each of its
// processes holds of the host's memory (proportional set size), guest RAM
// apart, and what each further container adds.
func (b *bench) memory(ctx context.Context) (err error) {
	log := filepath.Join(b.dir, "agent.json")
	p, err := b.newPod(ctx, b.kata, "--debug", "--log", log, "--log-format", "json")
	if err != nil {
		return err
	}
	ids := []string{p.id}
	defer func() {
		for _, id := range slices.Backward(ids) { // the sandbox last
			err = errors.Join(err, p.remove(ctx, id))
		}
	}()
	standIns := []int{p.pid}
	processes, err := b.podProcesses(p)
	if err != nil {
		return err
	}
	before, err := measure(processes, standIns)
	if err != nil {
		return err
	}
	for range members {
		id := b.id()
		if _, err := b.quiet(p.run(ctx, "run", "--detach", "-b", p.idle, id)); err != nil {
			return err
		}
		ids = append(ids, id)
		pid, err := p.pidOf(ctx, id)
		if err != nil {
			return err
		}
		standIns = append(standIns, pid)
	}
	after, err := measure(processes, standIns)
	if err != nil {
		return err
	}
	if err := printMemory(before, after, log); err != nil {
		return err
	}
	return b.freed(ctx, p, processes)
}

const (
	// usedMiB is what a container uses at once, and frees.
	usedMiB = 480
	// freedAfter is when the host is asked whether it has it back.
	freedAfter = 10 * time.Second
)

// freed prints what the guest's RAM takes of the host's before a container has used
// much, and some time after.
func (b *bench) freed(ctx context.Context, p *pod, processes []holder) error {
	before, err := measure(processes, nil)
	if err != nil {
		return err
	}
	size := fmt.Sprintf("bs=%dM", usedMiB) // one buffer of dd's
	if _, err := b.quiet(p.run(ctx, "exec", p.id, "/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", size, "count=1")); err != nil {
		return err
	}
	timer := time.NewTimer(freedAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	after, err := measure(processes, nil)
	if err != nil {
		return err
	}
	was, is := before["QEMU"].guest, after["QEMU"].guest
	fmt.Printf("\nGuest RAM %.1f MiB; %s after %d MiB were used and freed %.1f: %.2f\n", was, freedAfter, usedMiB, is, is/was)
	return nil
}

// holder is a process of the pod.
type holder struct {
	name string
	pid  int
}

// podProcesses finds the processes that the pod has besides its stand-ins, and
// remembers how QEMU was called.
func (b *bench) podProcesses(p *pod) ([]holder, error) {
	data, err := os.ReadFile(filepath.Join(b.dir, "kata", p.id, "kata.json"))
	if err != nil {
		return nil, err
	}
	var state struct{ SupervisorPID int }
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("state of %s: %w", p.id, err)
	}
	now, err := leak.Processes()
	if err != nil {
		return nil, err
	}
	all := []holder{{"supervisor", state.SupervisorPID}}
	for i := 0; i < len(all); i++ { // grows by the children
		for _, child := range now {
			if child.PPID != all[i].pid {
				continue
			}
			program, _, _ := strings.Cut(child.Command, " ")
			switch name := filepath.Base(program); {
			case strings.HasPrefix(name, "qemu-system"):
				all = append(all, holder{"QEMU", child.PID})
				if b.machine, err = commandLine(child.PID); err != nil {
					return nil, err
				}
			case name == "virtiofsd", name == "kata-vsock", name == "kata-fs":
				all = append(all, holder{name, child.PID})
			}
		}
	}
	if len(b.machine) == 0 {
		return nil, errors.New("the pod has no QEMU")
	}
	return all, nil
}

// held is memory in MiB by the name of what holds it.
type held map[string]size

type size struct{ own, guest float64 }

func (s size) plus(t size) size { return size{s.own + t.own, s.guest + t.guest} }

// per returns what one of n things took that were added between t and s.
func (s size) per(n float64, t size) size { return size{(s.own - t.own) / n, (s.guest - t.guest) / n} }

// measure adds up what the processes hold, and the stand-ins together.
func measure(processes []holder, standIns []int) (held, error) {
	all := held{}
	for _, pid := range standIns {
		processes = append(slices.Clip(processes), holder{"stand-in", pid})
	}
	for _, h := range processes {
		own, guest, err := pss(h.pid)
		if err != nil {
			return nil, err
		}
		all[h.name] = all[h.name].plus(size{own, guest}) // stand-ins are several
	}
	return all, nil
}

func commandLine(pid int) ([]string, error) {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"), nil
}

func printMemory(before, after held, log string) error {
	fmt.Printf("Memory of a pod with an idle container, and of each of %d further ones, MiB\n", members)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tPSS without guest RAM\tguest RAM\tfurther container\tits guest RAM\t")
	var total, more size
	for _, name := range []string{"supervisor", "kata-vsock", "stand-in", "kata-fs", "QEMU"} {
		first, further := before[name], after[name].per(members, before[name])
		total, more = total.plus(first), more.plus(further)
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t\n", name, first.own, first.guest, further.own, further.guest)
	}
	fmt.Fprintf(table, "together\t%.1f\t%.1f\t%.1f\t%.1f\t\n", total.own, total.guest, more.own, more.guest)
	if resident, ok := agentResident(log); ok {
		fmt.Fprintf(table, "agent, RSS in the guest\t\t%.1f\t\t\t\n", resident)
	}
	return table.Flush()
}

// pss adds up the proportional set size of a process in MiB: guest RAM, which
// is a memfd, and everything else.
func pss(pid int) (own, guest float64, err error) {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "smaps"))
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	inGuest := false
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 0 && !strings.HasSuffix(fields[0], ":"): // a mapping's address
			inGuest = strings.Contains(lines.Text(), "/memfd:")
		case len(fields) > 1 && fields[0] == "Pss:":
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				return 0, 0, fmt.Errorf("%s: %w", file.Name(), err)
			}
			if inGuest {
				guest += kib / 1024
			} else {
				own += kib / 1024
			}
		}
	}
	return own, guest, lines.Err()
}

// agentResident returns the agent's resident set size in MiB, as the agent
// reported it to the runtime, which logs it.
func agentResident(log string) (float64, bool) {
	data, err := os.ReadFile(log)
	if err != nil {
		return 0, false
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var line struct {
			Msg string
			RSS float64 `json:"rss_bytes"`
		}
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) || err != nil {
			return 0, false
		}
		if line.Msg == "agent" && line.RSS > 0 {
			return line.RSS / (1 << 20), true
		}
	}
}
