package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/share"
)

// overlay mounts an overlay. Two kinds need other names for the layers, in the
// thread's working directory: a list of layers that is longer than the page that
// mount(2) takes gets links with short names; lower layers that are to be
// id-mapped are mounted so, since an overlay itself cannot be.
func overlay(m *types.Mount, o options, target *os.File) error {
	if o.uids != nil || len(strings.Join(o.data, ",")) >= os.Getpagesize() {
		if err := rename(&o); err != nil {
			return err
		}
	}
	return mountAt(fdPath(target), m, m.GetSource(), o)
}

// layers are the lower layers, nil if they are not a simple list.
func layers(o options) []string {
	var names []string
	for _, option := range o.data {
		value, ok := strings.CutPrefix(option, "lowerdir=")
		if !ok {
			continue
		}
		names = nil // the last counts
		for _, name := range split(value, ':') {
			if name == "" { // layers that have data alone
				return nil
			}
			names = append(names, unescape(name))
		}
	}
	return names
}

// rename gives the layers short names and writes them into the options.
func rename(o *options) error {
	lower := layers(*o)
	if lower == nil {
		return fmt.Errorf("its lower layers are no simple list in options %q", strings.Join(o.data, ","))
	}
	// A list may have more than one such overlay.
	directory, err := os.MkdirTemp(".", "")
	if err != nil {
		return err
	}
	names := make([]string, len(lower))
	for i, layer := range lower {
		names[i] = filepath.Join(directory, strconv.Itoa(i))
		if o.uids == nil {
			err = os.Symlink(layer, names[i])
		} else {
			err = mountLayer(layer, names[i], *o)
		}
		if err != nil {
			return fmt.Errorf("lower layer %s: %w", layer, err)
		}
	}
	var data []string
	for _, option := range o.data {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir":
			continue
		case "upperdir", "workdir":
			name := filepath.Join(directory, key)
			if err := os.Symlink(unescape(value), name); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			option = key + "=" + name
		}
		data = append(data, option)
	}
	data = append(data, "lowerdir="+strings.Join(names, ":"))
	o.data = data
	return nil
}

// mountLayer mounts a lower layer id-mapped.
func mountLayer(layer, at string, o options) error {
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	target, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	tree, err := share.OpenTree(layer, false)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := mapIDs(tree, o, false); err != nil {
		return err
	}
	return share.Attach(tree, target)
}
