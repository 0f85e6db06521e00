package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Number is a device's, as the kernel knows it.
type Number struct{ Major, Minor int64 }

// Disk is a disk of the guest's.
type Disk struct {
	Number

	Name string // its node's, in /dev
}

// AwaitDisks returns the disks with these serials, once all of them are there.
func AwaitDisks(ctx context.Context, serials []string) (map[string]Disk, error) {
	if len(serials) == 0 {
		return nil, nil
	}
	var disks map[string]Disk
	missing := serials[0]
	err := await(ctx, func() (bool, error) {
		var err error
		if disks, err = findDisks("/sys/block"); err != nil {
			return false, err
		}
		for _, serial := range serials {
			disk, ok := disks[serial]
			if ok { // the node comes after the rest, and before the event
				_, err := os.Stat(filepath.Join("/dev", disk.Name))
				ok = err == nil
			}
			if !ok {
				missing = serial
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for disk %q: %w", missing, err)
	}
	return disks, nil
}

// findDisks returns the virtio disks below dir by their serials.
func findDisks(dir string) (map[string]Disk, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	disks := make(map[string]Disk)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "vd") {
			continue
		}
		serial, number, err := readDisk(filepath.Join(dir, entry.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // It has just left.
		}
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", entry.Name(), err)
		}
		disks[serial] = Disk{Number: number, Name: entry.Name()}
	}
	return disks, nil
}

func readDisk(dir string) (serial string, number Number, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "serial"))
	if err != nil {
		return "", Number{}, err
	}
	serial = strings.TrimSpace(string(text))
	if text, err = os.ReadFile(filepath.Join(dir, "dev")); err != nil {
		return "", Number{}, err
	}
	if _, err := fmt.Sscanf(string(text), "%d:%d", &number.Major, &number.Minor); err != nil {
		return "", Number{}, fmt.Errorf("its number %q: %w", text, err)
	}
	return serial, number, nil
}
