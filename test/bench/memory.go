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
	"strconv"
	"strings"
	"text/tabwriter"

	"kata-runtime/test/leak"
)

// memory runs one idle container and prints what each of its processes holds
// of the host's memory (proportional set size), guest RAM apart.
func (b *bench) memory(ctx context.Context) (err error) {
	dir, err := b.bundle("/bin/sleep", "100000")
	if err != nil {
		return err
	}
	before, err := leak.Processes()
	if err != nil {
		return err
	}
	id, log := b.id(), filepath.Join(b.dir, "agent.json")
	run := b.kata(ctx, "--debug", "--log", log, "--log-format", "json", "run", "--detach", "-b", dir, id)
	if err := run.Run(); err != nil { // its output must not be a pipe: the container inherits it
		return fmt.Errorf("%s: %w", run, err)
	}
	defer func() {
		_, deleteErr := output(b.kata(context.WithoutCancel(ctx), "delete", "--force", id))
		err = errors.Join(err, deleteErr)
	}()
	state, err := output(b.kata(ctx, "state", id))
	if err != nil {
		return err
	}
	var container struct{ PID int }
	if err := json.Unmarshal([]byte(state), &container); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	all, err := b.podProcesses(before, container.PID)
	if err != nil {
		return err
	}
	return printMemory(all, log)
}

// holder is a process of the pod.
type holder struct {
	name string
	pid  int
}

// podProcesses finds the processes that the container has brought about, and
// remembers how QEMU was called.
func (b *bench) podProcesses(before []leak.Process, standIn int) ([]holder, error) {
	known := map[int]bool{}
	for _, p := range before {
		known[p.PID] = true
	}
	now, err := leak.Processes()
	if err != nil {
		return nil, err
	}
	var all []holder
	supervisor := 0
	for _, p := range now {
		program, _, _ := strings.Cut(p.Command, " ")
		switch name := filepath.Base(program); {
		case known[p.PID]:
		case p.PID == standIn:
			all = append(all, holder{"stand-in", p.PID})
		case strings.HasPrefix(name, "qemu-system"):
			all = append(all, holder{"QEMU", p.PID})
			supervisor = p.PPID
			if b.machine, err = commandLine(p.PID); err != nil {
				return nil, err
			}
		case name == "virtiofsd":
			all = append(all, holder{name, p.PID})
		}
	}
	if supervisor == 0 {
		return nil, errors.New("the container has no QEMU")
	}
	return append(all, holder{"supervisor", supervisor}), nil
}

func commandLine(pid int) ([]string, error) {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"), nil
}

func printMemory(all []holder, log string) error {
	fmt.Println("Memory of an idle container, MiB")
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tPSS without guest RAM\tguest RAM\t")
	total, sums := [2]float64{}, map[string][2]float64{}
	for _, h := range all {
		own, guest, err := pss(h.pid)
		if err != nil {
			return err
		}
		sum := sums[h.name] // virtiofsd is two processes
		sums[h.name] = [2]float64{sum[0] + own, sum[1] + guest}
		total = [2]float64{total[0] + own, total[1] + guest}
	}
	for _, name := range []string{"supervisor", "stand-in", "virtiofsd", "QEMU"} {
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t\n", name, sums[name][0], sums[name][1])
	}
	fmt.Fprintf(table, "together\t%.1f\t%.1f\t\n", total[0], total[1])
	if resident, ok := agentResident(log); ok {
		fmt.Fprintf(table, "agent, RSS in the guest\t\t%.1f\t\n", resident)
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
