// Package limits reads what bounds processes on the host and is to bound those
// in a guest as well: the resource limits of a command's caller, and the
// kernel's parameters.
package limits

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// System is where Linux has its kernel parameters.
const System = "/proc/sys"

// OfCaller returns the resource limits with which this program was started, of
// every type, in a fixed order. From then on this process has them too, and
// those that it starts.
//
// dir is System: a limit of open files that the kernel would not let be set, as
// the parameter was lowered after it had been, is cut down.
func OfCaller(dir string) ([]specs.POSIXRlimit, error) {
	undoGo()
	types := protocol.Rlimits()
	var limits []specs.POSIXRlimit
	for _, name := range slices.Sorted(maps.Keys(types)) {
		var limit unix.Rlimit
		if err := unix.Prlimit(0, types[name], nil, &limit); err != nil {
			return nil, fmt.Errorf("read the caller's %s: %w", name, err)
		}
		if types[name] == unix.RLIMIT_NOFILE {
			most, err := parameter(dir, "fs/nr_open")
			if err != nil {
				return nil, err
			}
			limit.Cur, limit.Max = min(limit.Cur, most), min(limit.Max, most)
		}
		limits = append(limits, specs.POSIXRlimit{Type: name, Soft: limit.Cur, Hard: limit.Max})
	}
	return limits, nil
}

// undoGo takes back what Go does before main: it raises the soft limit of open
// files to the hard one. It keeps the original to itself, for processes that it
// starts, and sets it before this process becomes another program. No program
// has an empty path, so that this process goes on, with the limit set.
func undoGo() {
	_ = syscall.Exec("", []string{""}, nil) // fails
}

// MoreFiles lets this process, and those that it starts meanwhile, have as many
// files open as its hard limit allows; the caller's soft limit may be less than a
// container has mounts. restore sets that again, for hooks.
func MoreFiles() (restore func(), err error) {
	var soft unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &soft); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft.Max, Max: soft.Max}, nil); err != nil {
		return nil, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return func() { _ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &soft, nil) }, nil // it was so before
}

// Lift takes from this process, and from those that it starts, the caller's
// limits of time, size and memory: they are for the container's processes in the
// guest, not for what makes the machine. Without the capability, the caller's
// hard limits remain, and those are as far as it goes.
func Lift() error {
	var errs []error
	for name, resource := range protocol.Rlimits() {
		switch resource {
		case unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_AS, unix.RLIMIT_RSS, unix.RLIMIT_NPROC:
			if err := lift(resource); err != nil {
				errs = append(errs, fmt.Errorf("lift the caller's %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func lift(resource int) error {
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	err := unix.Prlimit(0, resource, &unlimited, nil)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(0, resource, nil, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return unix.Prlimit(0, resource, &limit, nil)
}

// Ceilings returns the host's values of protocol.Ceilings, as many as the host's
// kernel has, below dir, which is System.
func Ceilings(dir string) ([]*protocol.CeilingValue, error) {
	var values []*protocol.CeilingValue
	for _, ceiling := range protocol.Ceilings() {
		value, err := parameter(dir, ceiling.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && ceiling.Mode && value > ceiling.Max:
			continue
		case err != nil:
			return nil, err
		}
		values = append(values, &protocol.CeilingValue{Name: ceiling.Name, Value: min(value, ceiling.Max)})
	}
	return values, nil
}

func parameter(dir, name string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, fmt.Errorf("read the host's kernel parameter: %w", err)
	}
	value, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the host's kernel parameter %s: %w", name, err)
	}
	return value, nil
}
