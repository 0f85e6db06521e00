// Package tsc measures how fast the host's time stamp counter runs. A guest whose
// CPUs are emulated reads that counter (QEMU's TCG hands it on as it is), and would
// otherwise measure it by itself, against emulated timers: some 60 ms of its boot.
package tsc

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// span is how long the counter is watched. Reading clock and counter together is
	// off by some 100 ns, so the result is by 0.02 % at most, and usually by a tenth
	// of that.
	span = time.Millisecond
	// apart is the most that may lie between two readings of the clock around one of
	// the counter. A thread that lost its CPU in between knows neither well.
	apart = 5 * time.Microsecond
	// tries is how often a reading is repeated that took longer.
	tries = 20
	// Linux takes no other frequency for one of a CPU.
	leastKHz, mostKHz = 100_000, 20_000_000
)

// Frequency returns the counter's frequency in kHz, or 0: this machine has none, or was too
// busy to measure it. It takes a millisecond of CPU time.
func Frequency() int {
	if counter() == 0 {
		return 0
	}
	started, first, ok := read()
	if !ok {
		return 0
	}
	for range tries {
		now, ticks, ok := read()
		for ok && now-started < span {
			now, ticks, ok = read()
		}
		if !ok {
			continue
		}
		if ticks <= first {
			return 0
		}
		kHz := float64(ticks-first) / (now - started).Seconds() / 1000
		if kHz < leastKHz || kHz > mostKHz {
			return 0
		}
		return int(kHz + 0.5)
	}
	return 0
}

// read returns a moment of the clock and the counter then, if both are known to belong
// together.
func read() (time.Duration, uint64, bool) {
	for range tries {
		before, ok := clock()
		if !ok {
			return 0, 0, false
		}
		ticks := counter()
		after, ok := clock()
		if ok && after-before < apart {
			return before + (after-before)/2, ticks, true
		}
	}
	return 0, 0, false
}

// clock is the one that nobody adjusts while it is read.
func clock() (time.Duration, bool) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &now); err != nil {
		return 0, false
	}
	return time.Duration(now.Nano()), true
}
