package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
)

const (
	// treeFiles are in directories of filesPerDirectory.
	treeFiles         = 20_000
	volumeFiles       = 2_000
	filesPerDirectory = 100
	randomMiB         = 64
	// filesProgram is where the container finds the program that does the work.
	filesProgram = "/files"
)

// What is compared: each is a value of virtio_fs_daemon, and behind a blank one of
// virtio_fs_cache, if it is not the default.
const (
	ownServer   = "kata-fs"
	ownBrief    = "kata-fs brief"
	otherServer = ""
)

func fileServers() []string { return []string{ownServer, ownBrief, otherServer} }

// fileWork is what one part of the work took: seconds by the clock of the container,
// and of the processors of the host.
// And how often the guest asked for what, where the server tells.
type fileWork struct {
	clock, server, vmm float64
	requests           map[int]int
}

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
	volume, err := os.MkdirTemp(b.dir, "volume")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(volume)
	if err := makeTree(volume, volumeFiles); err != nil {
		return nil, nil, err
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}})
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
		daemon, cache, _ := strings.Cut(how, " ")
		text := fmt.Sprintf("[hypervisor]\nvirtio_fs_daemon = %q\nvirtio_fs_cache = %q\n[runtime]\nenable_debug = true\n", daemon, cmp.Or(cache, "auto"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
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
	step := func(line string) error {
		var name string
		var seconds float64
		if _, err := fmt.Sscan(line, &name, &seconds); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if processes == nil && how != "runc" {
			var err error
			if processes, err = b.podProcesses(&pod{id: id}); err != nil {
				return err
			}
		}
		now, err := processorTime(processes)
		if err != nil {
			return err
		}
		if how == ownServer || how == ownBrief {
			if now.requests, err = countRequests(processes, filepath.Join(b.dir, "kata", id)); err != nil {
				return err
			}
		}
		if seconds == 0 {
			before = now
			names = append(names, name)
		} else {
			for opcode, n := range before.requests {
				now.requests[opcode] -= n
			}
			work[name] = fileWork{seconds, now.server - before.server, now.vmm - before.vmm, now.requests}
		}
		if name == "walk" && seconds > 0 {
			for _, p := range processes {
				if own, _, err := pss(p.pid); err == nil {
					fmt.Fprintf(os.Stderr, "%q: PSS of %s after %d files %.1f MiB\n", how, p.name, treeFiles, own)
				}
			}
		}
		_, err = stdin.Write([]byte("\n"))
		return err
	}
	lines := bufio.NewScanner(stdout)
	for err == nil && lines.Scan() {
		err = step(lines.Text())
	}
	_ = stdin.Close() // which ends a container that waits
	if err := finish(command, stdout, errors.Join(err, lines.Err())); err != nil {
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
	if err := makeTree(root, treeFiles); err != nil {
		return err
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

// makeTree makes a tree of small files.
func makeTree(root string, files int) error {
	data := bytes.Repeat([]byte("kata"), 100)
	for i := range files {
		folder := filepath.Join(root, "tree", strconv.Itoa(i/filesPerDirectory))
		if i%filesPerDirectory == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), data, 0o600); err != nil {
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

// countRequests asks our file server, which answers in the supervisor's log.
func countRequests(processes []holder, state string) (map[int]int, error) {
	for _, p := range processes {
		if p.name != "kata-fs" {
			continue
		}
		return askRequests(p.pid, filepath.Join(state, "kata.supervisor.log"))
	}
	return nil, nil
}

// askRequests signals a process that answers in a log.
func askRequests(pid int, path string) (map[int]int, error) {
	log, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return nil, err
	}
	var text []byte
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-ticker.C {
		more, err := io.ReadAll(log)
		if err != nil {
			return nil, err
		}
		text = append(text, more...)
		if _, counts, found := strings.Cut(string(text), `counts=\"`); found {
			if counts, _, found := strings.Cut(counts, `\"`); found {
				return parseRequests(counts)
			}
		}
	}
	return nil, fmt.Errorf("the file server does not tell its requests: %q", text)
}

func parseRequests(counts string) (map[int]int, error) {
	all := make(map[int]int)
	for _, field := range strings.Fields(counts) {
		var opcode, n int
		if _, err := fmt.Sscanf(field, "%d:%d", &opcode, &n); err != nil {
			return nil, fmt.Errorf("counts of requests %q: %w", counts, err)
		}
		all[opcode] = n
	}
	return all, nil
}

// opcodes are those of linux/fuse.h.
func opcodes() map[int]string {
	return map[int]string{
		1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 5: "READLINK", 6: "SYMLINK", 8: "MKNOD", 9: "MKDIR", 10: "UNLINK",
		11: "RMDIR", 12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS", 18: "RELEASE", 20: "FSYNC",
		21: "SETXATTR", 22: "GETXATTR", 23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH", 26: "INIT", 27: "OPENDIR", 28: "READDIR",
		29: "RELEASEDIR", 30: "FSYNCDIR", 31: "GETLK", 32: "SETLK", 33: "SETLKW", 35: "CREATE", 42: "BATCH_FORGET", 44: "READDIRPLUS",
		45: "RENAME2", 46: "LSEEK", 47: "COPY_FILE_RANGE", 50: "SYNCFS",
	}
}

func printRequests(part string, requests map[int]int) {
	fmt.Printf("%s:", part)
	for _, opcode := range slices.Sorted(maps.Keys(requests)) {
		if n := requests[opcode]; n > 0 {
			fmt.Printf(" %s %d", cmp.Or(opcodes()[opcode], strconv.Itoa(opcode)), n)
		}
	}
	fmt.Println()
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
	fmt.Fprintln(table, "\tkata-fs\tserver\tQEMU\tbrief\tserver\tQEMU\tvirtiofsd\tserver\tQEMU\tratio\tbrief's\trunc\t")
	for _, part := range order {
		fmt.Fprintf(table, "%s\t", part)
		for _, how := range fileServers() {
			fmt.Fprintf(table, "%.2f\t%.2f\t%.2f\t", middle(how, part, clock),
				middle(how, part, func(w fileWork) float64 { return w.server }), middle(how, part, func(w fileWork) float64 { return w.vmm }))
		}
		other := middle(otherServer, part, clock)
		fmt.Fprintf(table, "%.2f\t%.2f\t%.3f\t\n", other/middle(ownServer, part, clock), other/middle(ownBrief, part, clock), middle("runc", part, clock))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, how := range []string{ownServer, ownBrief} {
		fmt.Printf("\nRequests of the guest to %s\n", how)
		for _, part := range order {
			printRequests(part, results[how][part][0].requests)
		}
	}
	return nil
}
