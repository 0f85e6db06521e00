package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"kata-runtime/test/bundle"
)

const (
	// treeFiles are in directories of filesPerDirectory.
	treeFiles         = 20_000
	filesPerDirectory = 100
	randomMiB         = 64
	// filesProgram is where the container finds the program that does the work.
	filesProgram = "/files"
)

// fileServers are compared; each is a value of virtio_fs_daemon.
func fileServers() []string { return []string{"kata-fs", ""} }

// fileWork is what one part of the work took: seconds by the clock of the container,
// and of the processors of the host.
type fileWork struct{ clock, server, vmm float64 }

// files measures work with files in a container: with our file server, with virtiofsd,
// and with runc. The processors' time is what counts on a machine that does other
// things too.
func (b *bench) files(ctx context.Context, runs int, parts []string) error {
	program := filepath.Join(b.dir, "files")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./test/bench/internal/files")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(build); err != nil {
		return err
	}
	results := make(map[string]map[string][]fileWork)
	var order []string
	for range runs {
		for _, how := range append(fileServers(), "runc") {
			work, names, err := b.fileRun(ctx, how, program, parts)
			if err != nil {
				return fmt.Errorf("files with %q: %w", how, err)
			}
			if results[how] == nil {
				results[how] = make(map[string][]fileWork)
			}
			for name, w := range work {
				results[how][name] = append(results[how][name], w)
			}
			order = names
		}
	}
	return printFiles(results, order)
}

// fileRun does all parts once, in a container of its own.
func (b *bench) fileRun(ctx context.Context, how, program string, parts []string) (work map[string]fileWork, names []string, err error) {
	spec := bundle.Spec(append([]string{filesProgram, "/"}, parts...)...)
	dir, err := b.bundleOf(spec)
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	if err := prepareFiles(filepath.Join(dir, "rootfs"), program); err != nil {
		return nil, nil, err
	}
	id := b.id()
	run := b.runc
	if how != "runc" {
		path := filepath.Join(dir, "configuration.toml")
		if err := os.WriteFile(path, fmt.Appendf(nil, "[hypervisor]\nvirtio_fs_daemon = %q\n", how), 0o600); err != nil {
			return nil, nil, err
		}
		run = func(ctx context.Context, args ...string) *exec.Cmd {
			return b.kata(ctx, append([]string{"--config", path}, args...)...)
		}
	}
	command := run(ctx, "run", "-b", dir, id)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	stdin, err1 := command.StdinPipe()
	stdout, err2 := command.StdoutPipe()
	if err := errors.Join(err1, err2, command.Start()); err != nil {
		return nil, nil, err
	}
	work = make(map[string]fileWork)
	var processes []holder
	var before fileWork
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var name string
		var seconds float64
		if _, err := fmt.Sscan(lines.Text(), &name, &seconds); err != nil {
			break
		}
		if processes == nil && how != "runc" {
			if processes, err = b.podProcesses(&pod{id: id}); err != nil {
				break
			}
		}
		now, err := processorTime(processes)
		if err != nil {
			break
		}
		if seconds == 0 {
			before = now
			names = append(names, name)
		} else {
			work[name] = fileWork{seconds, now.server - before.server, now.vmm - before.vmm}
		}
		if name == "walk-again" && seconds > 0 {
			for _, p := range processes {
				if own, _, err := pss(p.pid); err == nil {
					fmt.Fprintf(os.Stderr, "%q: PSS of %s after %d files %.1f MiB\n", how, p.name, treeFiles, own)
				}
			}
		}
		if _, err := stdin.Write([]byte("\n")); err != nil {
			break
		}
	}
	if err := errors.Join(err, finish(command, stdout, lines.Err())); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return work, names, nil
}

// prepareFiles makes what the work begins with.
func prepareFiles(root, program string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, filesProgram), data, 0o755); err != nil {
		return err
	}
	for i := range treeFiles {
		folder := filepath.Join(root, "tree", strconv.Itoa(i/filesPerDirectory))
		if i%filesPerDirectory == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), nil, 0o600); err != nil {
			return err
		}
	}
	for name, size := range map[string]int{"random": randomMiB, "mapped": randomMiB, "large": volumeMiB} {
		file, err := os.Create(filepath.Join(root, name))
		if err != nil {
			return err
		}
		block := bytes.Repeat([]byte("kata"), block/4)
		for range size {
			if _, err := file.Write(block); err != nil {
				return errors.Join(err, file.Close())
			}
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// processorTime adds up what the machine's processes have taken.
func processorTime(processes []holder) (sum fileWork, err error) {
	for _, p := range processes {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), "stat"))
		if err != nil {
			return sum, err
		}
		// After the name, which may have any bytes.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		user, err1 := strconv.ParseFloat(fields[11], 64)
		system, err2 := strconv.ParseFloat(fields[12], 64)
		if err := errors.Join(err1, err2); err != nil {
			return sum, err
		}
		const perSecond = 100 // USER_HZ
		took := (user + system) / perSecond
		switch p.name {
		case "QEMU":
			sum.vmm += took
		case "virtiofsd", "kata-fs":
			sum.server += took
		}
	}
	return sum, nil
}

func printFiles(results map[string]map[string][]fileWork, order []string) error {
	middle := func(how, part string, of func(fileWork) float64) float64 {
		var values []float64
		for _, w := range results[how][part] {
			values = append(values, of(w))
		}
		if len(values) == 0 {
			return 0
		}
		m, _, _ := median(values)
		return m
	}
	clock := func(w fileWork) float64 { return w.clock }
	fmt.Printf("\nWork with files, seconds: by the clock, and of the host's processors for the file server and for QEMU\n")
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tkata-fs\tserver\tQEMU\tvirtiofsd\tserver\tQEMU\tratio\trunc\t")
	for _, part := range order {
		fmt.Fprintf(table, "%s\t", part)
		for _, how := range fileServers() {
			fmt.Fprintf(table, "%.2f\t%.2f\t%.2f\t", middle(how, part, clock),
				middle(how, part, func(w fileWork) float64 { return w.server }), middle(how, part, func(w fileWork) float64 { return w.vmm }))
		}
		fmt.Fprintf(table, "%.2f\t%.3f\t\n", middle("", part, clock)/middle("kata-fs", part, clock), middle("runc", part, clock))
	}
	return table.Flush()
}
