package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"kata-runtime/hypervisor/tail"
)

const (
	volumeMiB = 256 // how much is written, and read
	maxRounds = 3   // unless nothing else is measured
	block     = 1 << 20
)

// throughput measures a container's output into the caller's pipe, its input
// from one, and how fast it reads a file of its root file system, once cold in
// the guest: against a plain VM's vsock and virtiofs, and against runc.
func (b *bench) throughput(ctx context.Context, rounds int) error {
	writer, err := b.bundle("/bin/dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", volumeMiB))
	if err != nil {
		return err
	}
	sink, err := b.bundle("/bin/sh", "-c", "echo; dd of=/dev/null bs=1M 2>/dev/null; echo")
	if err != nil {
		return err
	}
	reader, err := b.bundle("/bin/sh", "-c", "read a b < /proc/uptime; dd if=/data of=/dev/null bs=1M 2>/dev/null; read c d < /proc/uptime; echo $a $c")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(reader, "rootfs", "data")); err != nil {
		return err
	}
	vm, err := b.newPlain(ctx, filepath.Join(reader, "rootfs"), "data")
	if err != nil {
		return err
	}
	contained := func(run runtime) func(context.Context) (rates, error) {
		return func(ctx context.Context) (r rates, err error) {
			for _, m := range []struct {
				measure func(*exec.Cmd) (float64, error)
				bundle  string
				into    *float64
			}{{stream, writer, &r.stdout}, {feed, sink, &r.stdin}, {read, reader, &r.read}} {
				if *m.into, err = m.measure(run(ctx, "run", "-b", m.bundle, b.id())); err != nil {
					return rates{}, err
				}
			}
			return r, nil
		}
	}
	var all [3][]rates
	for range rounds {
		for i, measure := range []func(context.Context) (rates, error){contained(b.kata), vm.run, contained(b.runc)} {
			r, err := measure(ctx)
			if err != nil {
				return err
			}
			all[i] = append(all[i], r)
		}
	}
	return printThroughput(all[0], all[1], all[2])
}

func printThroughput(ours, plain, runc []rates) error {
	fmt.Printf("\nThroughput, MiB/s, median of %d; plain is vsock and virtiofs in a VM without the runtime\n", len(ours))
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tkata-runtime\tplain\tratio\trunc\tratio\t")
	for _, row := range []struct {
		name string
		of   func(rates) float64
	}{
		{"standard output to a pipe", func(r rates) float64 { return r.stdout }},
		{"standard input from a pipe", func(r rates) float64 { return r.stdin }},
		{"sequential read of a file", func(r rates) float64 { return r.read }},
	} {
		middle := func(all []rates) float64 {
			values := make([]float64, len(all))
			for i, r := range all {
				values[i] = row.of(r)
			}
			m, _, _ := median(values)
			return m
		}
		ours, plain, runc := middle(ours), middle(plain), middle(runc)
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.2f\t%.0f\t%.3f\t\n", row.name, ours, plain, ours/plain, runc, ours/runc)
	}
	return table.Flush()
}

// drain returns the rate at which volumeMiB come, in MiB/s, from the first byte
// to the end, which has to follow them.
func drain(from io.Reader) (float64, error) {
	_, err := io.ReadFull(from, make([]byte, 1))
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{from}, make([]byte, block))
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	if n+1 != volumeMiB<<20 {
		return 0, fmt.Errorf("%d bytes came, want %d", n+1, volumeMiB<<20)
	}
	return volumeMiB / took.Seconds(), nil
}

// fill returns the rate at which volumeMiB are taken, in MiB/s, from the first
// byte to the return of taken, which waits until the other end has the last.
func fill(to io.Writer, taken func() error) (float64, error) {
	buffer := make([]byte, block)
	begin := time.Now()
	for range volumeMiB {
		if _, err := to.Write(buffer); err != nil {
			return 0, err
		}
	}
	if err := taken(); err != nil {
		return 0, err
	}
	return volumeMiB / time.Since(begin).Seconds(), nil
}

// stream returns the rate at which a command's output comes.
func stream(command *exec.Cmd) (float64, error) {
	said := &tail.Buffer{} // dd's report, and why the command has failed
	command.Stderr = said
	stdout, err := command.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := command.Start(); err != nil {
		return 0, err
	}
	rate, err := drain(stdout)
	return rate, explained(finish(command, stdout, err), said)
}

// feed returns the rate at which a command takes its input. It says with a line
// that it is ready, and with another one that it has seen the end.
func feed(command *exec.Cmd) (float64, error) {
	stdin, err := command.StdinPipe()
	if err != nil {
		return 0, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return 0, err
	}
	said := &tail.Buffer{}
	command.Stderr = said
	if err := command.Start(); err != nil {
		return 0, err
	}
	line := make([]byte, 1)
	_, err = io.ReadFull(stdout, line)
	var rate float64
	if err == nil {
		rate, err = fill(stdin, func() error {
			if err := stdin.Close(); err != nil {
				return err
			}
			_, err := io.ReadFull(stdout, line)
			return err
		})
	}
	_ = stdin.Close()
	return rate, explained(finish(command, stdout, err), said)
}

// explained adds to an error what the command has said last.
func explained(err error, said *tail.Buffer) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", err, strings.Join(said.Lines(consoleLines), "\n"))
}

// finish waits for a command's end; err is what went wrong before.
func finish(command *exec.Cmd, stdout io.Closer, err error) error {
	if err != nil {
		_ = stdout.Close() // whoever still writes ends
	}
	if err := errors.Join(err, command.Wait()); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// read returns the rate at which the container read the file, in MiB/s, by the
// clock of its own kernel, which counts hundredths of a second.
func read(command *exec.Cmd) (float64, error) {
	text, err := output(command)
	if err != nil {
		return 0, err
	}
	var begin, end float64
	if _, err := fmt.Sscan(text, &begin, &end); err != nil {
		return 0, fmt.Errorf("%s: no two times in %q: %w", command, text, err)
	}
	if end <= begin {
		return 0, fmt.Errorf("%s: too fast to be measured: %q", command, text)
	}
	return volumeMiB / (end - begin), nil
}

func writeFile(path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data := make([]byte, block)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for range volumeMiB {
		if _, err := file.Write(data); err != nil {
			return err
		}
	}
	return nil
}
