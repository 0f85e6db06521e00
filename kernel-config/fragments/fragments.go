// Package fragments holds the options of the guest kernel, a file per topic:
// one option per line, each with the reason why it is set. See package kconfig
// for the format.
package fragments

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"kata-runtime/kernel-config/kconfig"
)

//go:embed *.config
var files embed.FS

// Load returns the options for an architecture, in Go's name of it (amd64,
// arm64): the common topics and the architecture's own file, which wins.
func Load(arch string) (kconfig.Options, error) {
	own, err := archFile(arch)
	if err != nil {
		return nil, err
	}
	var options kconfig.Options
	for _, name := range topics() {
		parsed, err := read(name)
		if err != nil {
			return nil, err
		}
		options = append(options, parsed...)
	}
	parsed, err := read(own)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(options.Validate(), parsed.Validate()); err != nil {
		return nil, err
	}
	return options.Override(parsed), nil
}

// Modules returns the options of a kernel with modules, which win over those that
// Load returns.
func Modules() (kconfig.Options, error) {
	options, err := read("modules.config")
	if err != nil {
		return nil, err
	}
	return options, options.Validate()
}

func read(name string) (kconfig.Options, error) {
	content, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, fmt.Errorf("read the fragment %s: %w", name, err)
	}
	return kconfig.Parse("fragments/"+name, string(content))
}

// topics are the fragments that every architecture takes.
func topics() []string {
	return []string{
		"base.config", "containers.config", "fs.config", "verity.config", "network.config", "netfilter.config",
		"virtio.config", "vsock.config", "hotplug.config", "hardening.config", "debug.config",
	}
}

func archFile(arch string) (string, error) {
	switch arch {
	case "amd64":
		return "x86_64.config", nil
	case "arm64":
		return "arm64.config", nil
	default:
		return "", fmt.Errorf("no kernel options for the architecture %q", arch)
	}
}
