package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"kata-runtime/hypervisor/tail"
	"kata-runtime/test/bundle"
	"kata-runtime/virtcontainers/network"
)

const (
	iperfSeconds = 2
	pings        = 200
)

// iperfServer is the command of a server; what it writes tells before which
// test it is.
func iperfServer() []string {
	return []string{"/usr/bin/iperf3", "--server", "--interval", "0", "--forceflush"}
}

// fileCopy is a file of the host, for a root file system elsewhere.
type fileCopy struct {
	path string
	data []byte
}

// iperfFiles reads iperf3 and the libraries that it is linked with.
func iperfFiles(ctx context.Context) ([]fileCopy, error) {
	program := iperfServer()[0]
	text, err := output(exec.CommandContext(ctx, "ldd", program))
	if err != nil {
		return nil, fmt.Errorf("libraries of iperf3 (package iperf3): %w", err)
	}
	var files []fileCopy
	for _, path := range append([]string{program}, libraries(text)...) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("copy iperf3: %w", err)
		}
		files = append(files, fileCopy{path, data})
	}
	return files, nil
}

// libraries returns the paths that ldd has printed.
func libraries(ldd string) []string {
	var paths []string
	for line := range strings.Lines(ldd) {
		for word := range strings.FieldsSeq(line) {
			if filepath.IsAbs(word) {
				paths = append(paths, word)
			}
		}
	}
	return paths
}

// installFiles copies files into a root file system.
func installFiles(root string, files []fileCopy) error {
	for _, file := range files {
		path := filepath.Join(root, file.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, file.data, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// records are the files as an initrd has them.
func records(files []fileCopy) []cpio.Record {
	var all []cpio.Record
	seen := map[string]bool{".": true}
	var directory func(string)
	directory = func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		directory(filepath.Dir(path))
		all = append(all, cpio.Directory(path, 0o755))
	}
	for _, file := range files {
		path := strings.TrimPrefix(file.path, "/")
		directory(filepath.Dir(path))
		all = append(all, cpio.StaticFile(path, string(file.data), 0o755))
	}
	return all
}

// iperfPeer is a running server, and the namespace whose address it knows as
// its host's.
type iperfPeer struct {
	from   *network.Namespace
	output *tail.Buffer
	// wait blocks until the output holds a text, or an error when it ends without.
	wait  func(text string) error
	tests int
	stop  func() error
}

// flow is what the network between a host and a guest gave.
type flow struct {
	toGuest, toHost float64 // MiB/s
	roundTrip       time.Duration
}

// measure runs one test in each direction, and then pings the guest, each ping
// following at the answer to the one before.
func (p *iperfPeer) measure(ctx context.Context) (result flow, err error) {
	if result.toGuest, err = p.test(ctx); err != nil {
		return flow{}, err
	}
	if result.toHost, err = p.test(ctx, "--reverse"); err != nil {
		return flow{}, err
	}
	text, err := p.command(ctx, bundle.Busybox, "ping", "-A", "-c", strconv.Itoa(pings), guestAddress)
	if err != nil {
		return flow{}, err
	}
	times, err := pingTimes(text)
	if err != nil {
		return flow{}, err
	}
	result.roundTrip, _, _ = median(times)
	return result, nil
}

// test runs one test of iperf3 and returns what was received, in MiB/s.
func (p *iperfPeer) test(ctx context.Context, options ...string) (float64, error) {
	p.tests++
	if err := p.wait(fmt.Sprintf("(test #%d)", p.tests)); err != nil {
		return 0, fmt.Errorf("iperf3's server does not listen: %w: %s", err, p.output)
	}
	text, err := p.command(ctx, iperfServer()[0], append([]string{
		"--client", guestAddress, "--json", "--interval", "0", "--time", strconv.Itoa(iperfSeconds),
	}, options...)...)
	if err != nil {
		return 0, err
	}
	return received(text)
}

// command runs a program in the host's namespace.
func (p *iperfPeer) command(ctx context.Context, name string, args ...string) (text string, err error) {
	err = p.from.Do(func() error {
		text, err = output(exec.CommandContext(ctx, name, args...))
		return err
	})
	return text, err
}

// received reads iperf3's report.
func received(report string) (float64, error) {
	var r struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal([]byte(report), &r); err != nil {
		return 0, fmt.Errorf("iperf3's report: %w", err)
	}
	if r.End.Received.Rate <= 0 {
		return 0, fmt.Errorf("iperf3's report has no rate: %s", report)
	}
	return r.End.Received.Rate / 8 / (1 << 20), nil
}

// pingTimes reads the time of each ping that was answered.
func pingTimes(text string) ([]time.Duration, error) {
	var times []time.Duration
	for line := range strings.Lines(text) {
		_, after, found := strings.Cut(line, " time=")
		if !found {
			continue
		}
		took, err := time.ParseDuration(strings.ReplaceAll(strings.TrimSpace(after), " ", ""))
		if err != nil {
			return nil, fmt.Errorf("ping: %w", err)
		}
		times = append(times, took)
	}
	if len(times) == 0 {
		return nil, fmt.Errorf("no ping was answered: %s", text)
	}
	return times, nil
}
