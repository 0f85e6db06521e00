// Package ceilings raises the guest's kernel parameters to the host's, see
// protocol.Ceilings.
package ceilings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kata-runtime/guest/protocol"
)

// ErrInvalid is wrapped by errors about a value that Raise was given.
var ErrInvalid = errors.New("invalid ceiling")

// Raise sets the parameters below dir, /proc/sys, to the values, except where
// they are as high already, or where this kernel has no such parameter. It goes
// on after a failure. Nothing is set when a value is not one of
// protocol.Ceilings.
func Raise(dir string, values []*protocol.CeilingValue) error {
	known := make(map[string]protocol.Ceiling)
	for _, ceiling := range protocol.Ceilings() {
		known[ceiling.Name] = ceiling
	}
	for _, value := range values {
		ceiling, ok := known[value.GetName()]
		if !ok || value.GetValue() > ceiling.Max {
			return fmt.Errorf("%w: %q = %d", ErrInvalid, value.GetName(), value.GetValue())
		}
	}
	var errs []error
	for _, value := range values {
		if err := raise(filepath.Join(dir, value.GetName()), value.GetValue(), known[value.GetName()].ZeroIsNone); err != nil {
			errs = append(errs, fmt.Errorf("raise %s to %d: %w", value.GetName(), value.GetValue(), err))
		}
	}
	return errors.Join(errs...)
}

func raise(path string, value uint64, zeroIsNone bool) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	now, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	enough := now >= value
	if zeroIsNone {
		enough = now == 0 || value != 0 && now >= value
	}
	if err != nil || enough {
		return err
	}
	return os.WriteFile(path, strconv.AppendUint(nil, value, 10), 0)
}
