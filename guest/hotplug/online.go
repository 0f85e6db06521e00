package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// system is where the kernel lists processors and memory.
const system = "/sys/devices/system"

// AwaitResources brings on line what was plugged in of processors and memory,
// and returns once the guest has as much of both.
func AwaitResources(ctx context.Context, cpus, memoryMiB int) error {
	var haveCPUs, haveMiB int
	err := await(ctx, func() (_ bool, err error) {
		if haveCPUs, err = onlineAll(filepath.Join(system, "cpu"), "cpu", "1", writeFile); err != nil {
			return false, err
		}
		if haveCPUs < cpus || memoryMiB == 0 {
			return haveCPUs >= cpus, nil
		}
		haveMiB, err = onlineMemory()
		return haveMiB >= memoryMiB, err
	})
	if err != nil {
		return fmt.Errorf("wait for %d processors and %d MiB of memory, now %d and %d: %w",
			cpus, memoryMiB, haveCPUs, haveMiB, err)
	}
	return nil
}

// onlineMemory returns how much memory is on line, in MiB. A block that is only
// partly there counts whole.
func onlineMemory() (int, error) {
	dir := filepath.Join(system, "memory")
	text, err := os.ReadFile(filepath.Join(dir, "block_size_bytes"))
	if err != nil {
		return 0, fmt.Errorf("read the size of a memory block: %w", err)
	}
	size, err := strconv.ParseUint(strings.TrimSpace(string(text)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("read the size of a memory block: %w", err)
	}
	blocks, err := onlineAll(dir, "memory", "online", writeFile)
	return blocks * int(size>>20), err
}

// onlineAll switches on what is off of the entries of dir with the prefix and a
// number, and returns how many are on.
func onlineAll(dir, prefix, value string, write func(path, value string) error) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list what is plugged in: %w", err)
	}
	count := 0
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), prefix)
		if _, err := strconv.Atoi(number); !ok || err != nil {
			continue
		}
		on, err := online(filepath.Join(dir, entry.Name()), value, write)
		if err != nil {
			return 0, err
		}
		if on {
			count++
		}
	}
	return count, nil
}

// online switches one processor or memory block on. One that is leaving is off.
func online(dir, value string, write func(path, value string) error) (bool, error) {
	state := filepath.Join(dir, "online")
	on, err := isOn(state)
	if errors.Is(err, os.ErrNotExist) {
		// The first processor has no switch. Others get theirs with the event
		// that announces them.
		_, err := os.Stat(dir)
		return err == nil && filepath.Base(dir) == "cpu0", nil
	}
	if on || err != nil {
		return on, err
	}
	target := state
	if value == "online" {
		target = filepath.Join(dir, "state")
	}
	if err := write(target, value); err != nil {
		// The kernel, which brings memory on line by itself, may have been faster, or
		// whoever takes it away: it refuses what changes nothing.
		if on, again := isOn(state); again == nil && on || errors.Is(again, os.ErrNotExist) {
			return on, nil
		}
		return false, fmt.Errorf("bring %s on line: %w", filepath.Base(dir), err)
	}
	return true, nil
}

func isOn(path string) (bool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return strings.TrimSpace(string(text)) == "1", nil
}

func writeFile(path, value string) error { return os.WriteFile(path, []byte(value), 0) }
