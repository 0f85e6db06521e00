package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

const (
	// PathVariable is the environment variable that names the main file when
	// no path is given. Kata Containers' shim reads the same.
	PathVariable = "KATA_CONF_FILE"
	// dropInDirectory lies beside the main file.
	dropInDirectory = "config.d"
	// maxFileSize bounds what is read of one file, in bytes.
	maxFileSize = 1 << 20
)

// DefaultPaths is where Load looks for the main file, in order.
func DefaultPaths() []string {
	return []string{
		"/etc/kata-containers/configuration.toml",
		"/usr/share/defaults/kata-containers/configuration.toml",
	}
}

// Load reads the configuration. An empty path stands for the file that
// PathVariable names, else for the first of DefaultPaths that exists, else for
// no file: the defaults, which drop-ins in the directory of the first default
// path may still override. A file that was named must exist.
//
// Drop-ins are the files config.d/*.toml beside the main file, read after it
// in the order of their names; each key that one of them sets replaces the
// key's earlier value.
//
// Errors name the file, the key and what is allowed.
func Load(ctx context.Context, path string) (*Config, error) {
	if path == "" {
		path = os.Getenv(PathVariable)
	}
	return load(ctx, path, DefaultPaths())
}

func load(ctx context.Context, path string, search []string) (*Config, error) {
	files, err := findFiles(path, search)
	if err != nil {
		return nil, err
	}
	config := Default()
	from := make(origins)
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		if err := config.readFile(file, from); err != nil {
			return nil, err
		}
		config.Files = append(config.Files, file)
	}
	if err := config.validate(from); err != nil {
		return nil, err
	}
	return config, nil
}

// Parse reads the configuration from a text, in the place of a file: without
// drop-ins. name stands for it in errors.
func Parse(name, text string) (*Config, error) {
	config := Default()
	from := make(origins)
	if err := config.merge(name, text, from); err != nil {
		return nil, err
	}
	if err := config.validate(from); err != nil {
		return nil, err
	}
	return config, nil
}

// findFiles lists the main file, if there is one, and its drop-ins.
func findFiles(path string, search []string) ([]string, error) {
	main, beside := path, path
	if path == "" {
		var err error
		if main, err = firstExisting(search); err != nil {
			return nil, err
		}
		if beside = main; beside == "" {
			beside = search[0]
		}
	}
	var files []string
	if main != "" {
		files = append(files, main)
	}
	dropIns, err := findDropIns(filepath.Join(filepath.Dir(beside), dropInDirectory))
	if err != nil {
		return nil, err
	}
	return append(files, dropIns...), nil
}

func firstExisting(paths []string) (string, error) {
	for _, path := range paths {
		switch _, err := os.Stat(path); {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("look for the configuration file: %w", err)
		}
	}
	return "", nil
}

// findDropIns lists the drop-ins of a directory, sorted by name, as os.ReadDir
// does.
func findDropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for configuration drop-ins: %w", err)
	}
	var files []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".toml") {
			continue
		}
		files = append(files, filepath.Join(dir, name))
	}
	return files, nil
}

// knownKeys are the options' keys and the tables that lead to them.
func knownKeys() map[string]bool {
	known := make(map[string]bool)
	for _, option := range Options() {
		for _, name := range []string{option.Name(), option.KataName()} {
			for i := range name {
				if name[i] == '.' {
					known[name[:i]] = true
				}
			}
			known[name] = true
		}
	}
	return known
}

// document is the shape of a file. Its pointers lead to a Config's fields, so
// that decoding leaves what the file does not set as it is.
type document struct {
	Hypervisor struct {
		Driver *string `toml:"driver"`
		*Machine
		QEMU struct {
			*QEMU
			*Machine // Kata Containers has these keys here
		} `toml:"qemu"`
	} `toml:"hypervisor"`
	Guest *Guests `toml:"guest"`
	Agent struct {
		Kata agentTableShape `toml:"kata"`
	} `toml:"agent"`
	Runtime *Runtime `toml:"runtime"`
	Factory *Factory `toml:"factory"`
}

// agentTableShape has seconds where Agent has a duration.
type agentTableShape struct {
	DialTimeout int64 `toml:"dial_timeout"`

	DebugConsole *bool `toml:"debug_console_enabled"`

	IdleCacheTimeout *int `toml:"idle_cache_timeout"`

	KernelModules *[]string `toml:"kernel_modules"`

	AppArmorPolicies *string `toml:"apparmor_policies"`
	SELinuxPolicy    *string `toml:"selinux_policy"`
}

func (c *Config) document() *document {
	doc := &document{Guest: &c.Guest, Runtime: &c.Runtime, Factory: &c.Factory}
	doc.Hypervisor.Driver, doc.Hypervisor.Machine = &c.Hypervisor.Driver, &c.Hypervisor.Machine
	doc.Hypervisor.QEMU.QEMU, doc.Hypervisor.QEMU.Machine = &c.Hypervisor.QEMU, &c.Hypervisor.Machine
	doc.Agent.Kata.DialTimeout = int64(c.Agent.DialTimeout / time.Second)
	doc.Agent.Kata.DebugConsole, doc.Agent.Kata.IdleCacheTimeout = &c.Agent.DebugConsole, &c.Agent.IdleCacheTimeout
	doc.Agent.Kata.KernelModules = &c.Agent.KernelModules
	doc.Agent.Kata.AppArmorPolicies, doc.Agent.Kata.SELinuxPolicy = &c.Agent.AppArmorPolicies, &c.Agent.SELinuxPolicy
	return doc
}

// origins tells by an option's name which key of which file has set it.
type origins map[string]origin

type origin struct{ file, key string }

// note enters the keys of one file, which may set each option by one of its names
// alone.
func (o origins) note(file string, keys []toml.Key) error {
	set := make(map[string]bool)
	for _, key := range keys {
		set[key.String()] = true
	}
	for _, option := range Options() {
		name, kata := option.Name(), option.KataName()
		switch {
		case set[name] && set[kata]:
			return fmt.Errorf("%s: %s and %s are the same option: set one of them", file, name, kata)
		case set[name]:
			o[name] = origin{file, name}
		case set[kata]:
			o[name] = origin{file, kata}
		}
	}
	return nil
}

// readFile merges one file into c and notes in from which file set each key.
func (c *Config) readFile(path string, from origins) error {
	text, err := readBounded(path)
	if err != nil {
		return err
	}
	return c.merge(path, text, from)
}

// merge is readFile for a file's text.
func (c *Config) merge(path, text string, from origins) error {
	doc := c.document()
	// The decoder reuses a slice's array: it must not write into an earlier
	// file's value.
	args := c.Hypervisor.VirtioFSExtraArgs
	c.Hypervisor.VirtioFSExtraArgs = args[:len(args):len(args)]
	meta, err := toml.Decode(text, doc)
	if err != nil {
		// The decoder's text holds the line and the key.
		return fmt.Errorf("%s: %w", path, err)
	}
	// Not meta.Undecoded: the decoder takes keys in any case.
	known := knownKeys()
	for _, key := range meta.Keys() {
		if !known[key.String()] {
			return unknownKeyError(path, key.String())
		}
	}
	seconds := doc.Agent.Kata.DialTimeout
	if seconds < 0 || seconds > maxDialTimeout {
		// Before the multiplication below can overflow.
		return fmt.Errorf("%s: agent.kata.dial_timeout = %d: must be 1-%d", path, seconds, maxDialTimeout)
	}
	c.Agent.DialTimeout = time.Duration(seconds) * time.Second
	return from.note(path, meta.Keys())
}

func readBounded(path string) (text string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	if len(data) > maxFileSize {
		return "", fmt.Errorf("read configuration: %s is larger than %d bytes", path, maxFileSize)
	}
	return string(data), nil
}

// validate checks each option's value.
func (c *Config) validate(from origins) error {
	for _, option := range Options() {
		wrong := option.check(c)
		if wrong == "" {
			continue
		}
		at, ok := from[option.Name()]
		if !ok {
			at = origin{"default configuration", option.Name()}
		}
		return fmt.Errorf("%s: %s = %s: %s", at.file, at.key, tomlValue(option.get(c)), wrong)
	}
	return nil
}
