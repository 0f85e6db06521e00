package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/BurntSushi/toml"
)

// world is a node in a directory, with a containerd that is a function.
type world struct {
	root, payload string
	options       Options
	restarted     []string
}

// newWorld makes a node with those files, and a tree to install.
func newWorld(t *testing.T, version string, files map[string]string) *world {
	t.Helper()
	w := &world{root: memoryDir(t), payload: t.TempDir()}
	write(t, w.root, map[string]string{
		"var/lib/other": "", "proc/1/comm": "systemd\n", "proc/1/cmdline": "/sbin/init\x00", "etc/hostname": "node\n",
		"usr/local/bin/other": "another program",
	})
	if version != "" {
		write(t, w.root, map[string]string{"usr/bin/containerd": version})
	}
	write(t, w.root, files)
	write(t, w.payload, map[string]string{
		"bin/kata-runtime": "program 1", "bin/kata-device": "device 1", "bin/kata-agent": "not installed",
		"share/kata-containers/vmlinux": "kernel 1", "share/kata-containers/debian/initrd.img": "image 1",
	})
	w.options = Options{
		Root: w.root, Payload: w.payload, Configuration: "# configuration 1\n", Version: "1",
		Handler: Handler{Name: DefaultHandler, Prefix: DefaultPrefix, FrontEnd: FrontEndOCI},
		Run:     w.run, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Restart: true, Restarter: func(_ context.Context, unit string) error {
			w.restarted = append(w.restarted, unit)
			return nil
		},
	}
	return w
}

// memoryDir is a directory in which it takes no time that data is to last.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "node-test-") //nolint:usetesting // its directories are on disks
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		text = strings.ReplaceAll(text, "ROOT", root)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) text(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (w *world) install(t *testing.T) {
	t.Helper()
	if err := Install(t.Context(), w.options); err != nil {
		t.Fatalf("install: %v", err)
	}
}

func (w *world) remove(t *testing.T) {
	t.Helper()
	if err := Remove(t.Context(), w.options); err != nil {
		t.Fatalf("remove: %v", err)
	}
}

// state is every name below the node's root, with mode and content.
func (w *world) state(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	err := filepath.WalkDir(w.root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(name); err != nil {
				return err
			}
		}
		// The root directory's own name is another one in each world.
		content = bytes.ReplaceAll(content, []byte(w.root), []byte("ROOT"))
		state[strings.TrimPrefix(name, w.root)] = info.Mode().String() + " " + string(content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// inodes tells which files were replaced.
func (w *world) inodes(t *testing.T) map[string]uint64 {
	t.Helper()
	inodes := map[string]uint64{}
	for name := range w.state(t) {
		info, err := os.Lstat(filepath.Join(w.root, name))
		if err != nil {
			t.Fatal(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && name != receiptPath {
			inodes[name] = stat.Ino
		}
	}
	return inodes
}

// run is the node's programs: what is in the file of containerd is what it prints
// as its version.
func (w *world) run(_ context.Context, program string, args ...string) ([]byte, error) {
	switch path.Base(program) {
	case "kata-runtime":
		if text, err := os.ReadFile(filepath.Join(w.root, program)); err != nil || strings.HasPrefix(string(text), "broken") {
			return nil, errors.Join(err, errors.New("exit status 1: qemu is missing"))
		}
		return []byte("this host can run virtual machines\n"), nil
	case "containerd":
		version, err := os.ReadFile(filepath.Join(w.root, program))
		if err != nil {
			return nil, err
		}
		switch args[0] {
		case "--version":
			return version, nil
		case "config": // default
			args = []string{"", "/no/such/file"}
		}
		return fakeDump(w.root, args[1], strings.Contains(string(version), " 1."))
	}
	return nil, fmt.Errorf("the node has no %s", program)
}

// fakeDump is `containerd config dump` as to versions' merging of imports.
func fakeDump(root, config string, old bool) ([]byte, error) {
	id := pluginVersion3
	if old {
		id = pluginVersion2
	}
	all := map[string]any{}
	merge(all, map[string]any{"root": "/var/lib/containerd", "plugins": map[string]any{id: map[string]any{
		"containerd": map[string]any{"default_runtime_name": "runc", "runtimes": map[string]any{}},
	}}})
	load := func(name string) ([]string, error) {
		var settings map[string]any
		data, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err == nil {
			_, err = toml.Decode(string(data), &settings)
		}
		if err != nil {
			return nil, err
		}
		plugins := at(settings, "plugins")
		if plugin, ok := plugins[pluginVersion2]; ok && !old {
			delete(plugins, pluginVersion2)
			plugins[id] = plugin
		}
		if _, ok := at(settings, "plugins")[id]; ok && old && name != config {
			delete(at(all, "plugins"), id) // replaced, not merged
		}
		merge(all, settings)
		var imports []string
		list, _ := settings["imports"].([]any)
		for _, pattern := range list {
			pattern, _ := pattern.(string)
			if !path.IsAbs(pattern) {
				pattern = path.Join(path.Dir(config), pattern)
			}
			names, err := fs.Glob(os.DirFS(root), inside(pattern))
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				imports = append(imports, "/"+name)
			}
		}
		return imports, nil
	}
	imports, err := load(config)
	for _, name := range imports {
		if err == nil {
			_, err = load(name)
		}
	}
	if err != nil {
		return nil, err
	}
	var output bytes.Buffer
	err = toml.NewEncoder(&output).Encode(all)
	return output.Bytes(), err
}

func merge(into, from map[string]any) {
	for key, value := range from {
		table, ok := value.(map[string]any)
		if !ok {
			into[key] = value
			continue
		}
		inner, ok := into[key].(map[string]any)
		if !ok {
			inner = map[string]any{}
			into[key] = inner
		}
		merge(inner, table)
	}
}

// sameState compares two states of a node.
func sameState(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	names := maps.Clone(got)
	maps.Copy(names, want)
	for name := range names {
		if got[name] != want[name] {
			t.Errorf("%s: %s is %q, want %q", what, name, got[name], want[name])
		}
	}
}
