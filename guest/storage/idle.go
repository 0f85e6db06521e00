package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// idleLooks is how many times the IdleDropper looks while the guest is idle for
	// as long as it may be, before it acts.
	idleLooks = 4
	// idleShare is the part of one processor's time that an idle guest uses at most:
	// timers, probes, the agent.
	idleShare = 0.05
	// worthDropping is how much of the files' contents is left to the guest, in bytes:
	// to have them read again costs more than they do.
	worthDropping = 16 << 20
)

// IdleDropper lets a guest that does nothing give up what it has of files in its
// memory, once each time that it has become idle. The host, which then has that memory
// back, mostly has the same files in its own.
//
// It reads two numbers from /proc a few times in the time that it waits for. Its owner
// runs it only while there are containers.
type IdleDropper struct {
	log    *slog.Logger
	after  time.Duration
	busy   func() (time.Duration, error) // of all processors together, since the boot
	cached func() (int64, error)         // bytes that can be dropped
	drop   func() error
}

// NewIdleDropper returns an IdleDropper for a guest that has been idle for so long,
// which is positive.
func NewIdleDropper(log *slog.Logger, after time.Duration) *IdleDropper {
	return &IdleDropper{log: log, after: after, busy: processorTime, cached: cachedContents, drop: dropContents}
}

// Run drops until ctx ends. It gives up, with a log message, when the kernel does not
// have what it needs.
func (d *IdleDropper) Run(ctx context.Context) {
	interval := d.after / idleLooks
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	last, err := d.busy()
	looked, idleSince := time.Now(), time.Now()
	dropped := false // since it was busy
	for {
		if err != nil {
			d.log.Warn("an idle guest keeps what it has of files in its memory", "error", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var used time.Duration
		if used, err = d.busy(); err != nil {
			continue
		}
		now := time.Now()
		if float64(used-last) > idleShare*float64(now.Sub(looked)) {
			idleSince, dropped = now, false
		}
		last, looked = used, now
		if dropped || now.Sub(idleSince) < d.after {
			continue
		}
		var cached int64
		if cached, err = d.cached(); err == nil && cached >= worthDropping {
			err = d.drop()
		}
		dropped = true
	}
}

// processorTime reads what all processors have done so far.
func processorTime() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return parseProcessorTime(data)
}

// parseProcessorTime adds up the first line of /proc/stat but for idling and waiting for
// devices (proc(5)). A guest's own guests are in user time already.
func parseProcessorTime(stat []byte) (time.Duration, error) {
	const (
		tick                   = 10 * time.Millisecond // USER_HZ
		idle, iowait, steal, n = 3, 4, 7, 8
	)
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) <= n || fields[0] != "cpu" {
		return 0, fmt.Errorf("read processor time: /proc/stat begins with %q", line)
	}
	var sum int64
	for i, field := range fields[1 : n+1] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		if i != idle && i != iowait && i != steal {
			sum += ticks
		}
	}
	return time.Duration(sum) * tick, nil
}

// cachedContents reads how much of files' contents is in memory.
func cachedContents() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read the size of the cache: %w", err)
	}
	return parseCachedContents(data)
}

// parseCachedContents adds up the lists of pages that belong to files, which a tmpfs's
// are not on.
func parseCachedContents(meminfo []byte) (int64, error) {
	var sum int64
	found := 0
	for line := range strings.Lines(string(meminfo)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "Active(file)" && name != "Inactive(file)" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the size of the cache: %w", err)
		}
		sum += kib << 10
		found++
	}
	if found != 2 {
		return 0, errors.New("read the size of the cache: /proc/meminfo does not have it")
	}
	return sum, nil
}

// dropContents drops the contents of files that nothing has mapped or changed.
func dropContents() error { return dropCaches("1") }

// dropCaches tells the kernel what to drop, see vm.drop_caches.
func dropCaches(what string) error {
	// 4 keeps the kernel from logging each drop.
	for _, word := range []string{"4", what} {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte(word), 0); err != nil {
			return fmt.Errorf("drop caches: %w", err)
		}
	}
	return nil
}
