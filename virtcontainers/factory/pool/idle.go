package pool

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"kata-runtime/virtcontainers/config"
)

// lookAgain is how often a machine that waits for an idle host looks.
const lookAgain = time.Second

// awaitIdle waits until the host has the time and the memory for one more machine.
func awaitIdle(ctx context.Context, settings *config.Config) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		idle, err := hostIdle("/proc", settings, runtime.NumCPU())
		if err != nil || idle {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hostIdle tells whether the host, whose proc(5) is given, is below the limits of the
// configuration.
func hostIdle(proc string, settings *config.Config, cpus int) (bool, error) {
	if most := settings.Factory.MaxLoadPercent; most > 0 {
		text, err := os.ReadFile(proc + "/loadavg")
		if err != nil {
			return false, fmt.Errorf("read the host's load: %w", err)
		}
		minute, _, _ := strings.Cut(string(text), " ")
		load, err := strconv.ParseFloat(minute, 64)
		if err != nil {
			return false, fmt.Errorf("read the host's load: %w", err)
		}
		if load*100 > float64(most*cpus) {
			return false, nil
		}
	}
	available, err := availableMiB(proc)
	if err != nil {
		return false, err
	}
	return available >= settings.Factory.MinMemoryMiB+settings.Hypervisor.DefaultMemoryMiB, nil
}

func availableMiB(proc string) (int, error) {
	text, err := os.ReadFile(proc + "/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read the host's memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "MemAvailable:" {
			kibi, err := strconv.Atoi(fields[1])
			if err != nil {
				return 0, fmt.Errorf("read the host's memory: %w", err)
			}
			return kibi >> 10, nil
		}
	}
	return 0, fmt.Errorf("read the host's memory: %s/meminfo does not tell what is available", proc)
}
