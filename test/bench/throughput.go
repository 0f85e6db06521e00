package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"
)

const (
	streamMiB = 256 // how much a container writes
	fileMiB   = 256 // how large the file is that a container reads
	rounds    = 3
)

// throughput measures a container's output into the caller's pipe, and how
// fast it reads a file of its root file system, once cold in the guest.
func (b *bench) throughput(ctx context.Context) error {
	writer, err := b.bundle("/bin/dd", "if=/dev/zero", "bs=1M", fmt.Sprintf("count=%d", streamMiB))
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
	var streams, reads, runcStreams, runcReads []float64
	for range rounds {
		for _, m := range []struct {
			measure func(*exec.Cmd) (float64, error)
			command *exec.Cmd
			into    *[]float64
		}{
			{stream, b.kata(ctx, "run", "-b", writer, b.id()), &streams},
			{stream, b.runc(ctx, "run", "-b", writer, b.id()), &runcStreams},
			{read, b.kata(ctx, "run", "-b", reader, b.id()), &reads},
			{read, b.runc(ctx, "run", "-b", reader, b.id()), &runcReads},
		} {
			rate, err := m.measure(m.command)
			if err != nil {
				return err
			}
			*m.into = append(*m.into, rate)
		}
	}
	fmt.Printf("\nThroughput, MiB/s, median of %d\n", rounds)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tkata-runtime\trunc\tratio\t")
	for _, row := range []struct {
		name       string
		ours, runc []float64
	}{{"standard output to a pipe", streams, runcStreams}, {"sequential read of a file", reads, runcReads}} {
		ours, _, _ := median(row.ours)
		theirs, _, _ := median(row.runc)
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.3f\t\n", row.name, ours, theirs, ours/theirs)
	}
	return table.Flush()
}

// stream returns the rate at which a command's output comes, in MiB/s, from
// its first byte to its last.
func stream(command *exec.Cmd) (float64, error) {
	command.Stderr = nil // dd's report
	stdout, err := command.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := command.Start(); err != nil {
		return 0, err
	}
	_, firstErr := io.ReadFull(stdout, make([]byte, 1))
	begin := time.Now()
	n, copyErr := io.Copy(io.Discard, stdout)
	took := time.Since(begin)
	if err := errors.Join(firstErr, copyErr, command.Wait()); err != nil {
		return 0, fmt.Errorf("%s: %w", command, err)
	}
	if n+1 != streamMiB<<20 {
		return 0, fmt.Errorf("%s: %d bytes of output, want %d", command, n+1, streamMiB<<20)
	}
	return float64(streamMiB) / took.Seconds(), nil
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
	return fileMiB / (end - begin), nil
}

func writeFile(path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for range fileMiB {
		if _, err := file.Write(block); err != nil {
			return err
		}
	}
	return nil
}
