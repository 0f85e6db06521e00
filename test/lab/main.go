// Command lab runs tests on a machine that has what test machines lack: KVM,
// vhost-vsock and vhost-net, cgroup v2 alone, systemd, and each network device
// of Debian's kernel. The machine is a Debian that QEMU emulates, with a
// processor whose virtualization is emulated too: each VM of a test is one in a
// VM. So nothing that it measures tells of hardware.
//
// It prints what go test -json prints, for gotestsum. The test programs are
// compiled here and run there; the programs and images under test are those of
// the source tree (make build kernel image).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"kata-runtime/test/lab/internal/disk"
	"kata-runtime/test/lab/internal/machine"
	"kata-runtime/test/lab/internal/wire"
)

type options struct {
	short bool
	sets  *regexp.Regexp
	run   string
	count int
	limit time.Duration
	build bool
}

func main() {
	var o options
	var pattern string
	flag.BoolVar(&o.short, "short", false, "only the sets that are part of make test")
	flag.StringVar(&pattern, "sets", ".", "only the sets whose `names` match")
	flag.StringVar(&o.run, "run", "", "of each set only the tests that match the `pattern`, instead of the set's own")
	flag.IntVar(&o.count, "count", 1, "run each test so many `times`")
	flag.DurationVar(&o.limit, "limit", 4*time.Hour, "end the machine after this `time`")
	flag.BoolVar(&o.build, "build", false, "build the machine's disk, unless it is in the cache, and no more")
	flag.Parse()
	var err error
	if o.sets, err = regexp.Compile(pattern); err != nil {
		fmt.Fprintln(os.Stderr, "lab: -sets:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	good, err := lab(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}

// choose returns the sets that the options ask for.
func (o options) choose() ([]set, error) {
	var chosen []set
	for _, s := range sets() {
		if o.short && !s.short || !o.sets.MatchString(s.name) {
			continue
		}
		if o.run != "" {
			s.run = o.run
		}
		s.count = o.count
		chosen = append(chosen, s)
	}
	if len(chosen) == 0 {
		return nil, errors.New("no such set")
	}
	return chosen, nil
}

// provide returns the disk.
func provide(ctx context.Context) (disk.Disk, error) {
	cacheDir := os.Getenv("KATA_CACHE_DIR")
	if cacheDir == "" {
		cacheDir = filepath.Join("build", "cache")
	}
	return disk.Get(ctx, cacheDir, os.Stderr)
}

// lab runs the sets, and tells whether the machine did well. Whether the tests
// did is told in the report alone.
func lab(ctx context.Context, o options) (good bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the lab has not ended after %s", o.limit))
	defer cancel()
	if o.build {
		_, err := provide(ctx)
		return err == nil, err
	}
	chosen, err := o.choose()
	if err != nil {
		return false, err
	}
	tree, err := os.Getwd()
	if err != nil {
		return false, fmt.Errorf("find the source tree: %w", err)
	}
	for _, name := range []string{"bin/kata-runtime", "share/kata-containers/vmlinux", "share/kata-containers/initrd.img"} {
		if _, err := os.Stat(filepath.Join(tree, name)); err != nil {
			return false, fmt.Errorf("%w: run make build kernel image first", err)
		}
	}
	system, err := provide(ctx)
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "lab.")
	if err != nil {
		return false, fmt.Errorf("make a directory for the lab: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	boot := machine.Options{Disk: system, Share: filepath.Join(dir, "share"), Tree: tree, Work: filepath.Join(dir, "work"), Silence: wire.SilentFor}
	for _, d := range []string{boot.Share, boot.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return false, fmt.Errorf("make a directory for the lab: %w", err)
		}
	}
	if err := stage(ctx, boot.Share, tree, chosen); err != nil {
		return false, err
	}
	r := newReport(os.Stdout, chosen)
	err = machine.Run(ctx, boot, func(message wire.Message) error { return r.receive(ctx, message) })
	return r.finish(err), nil
}
