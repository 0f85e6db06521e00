// Package fragments holds the options of the guest kernel, a file per topic:
// one option per line, each with the reason why it is set. See package kconfig
// for the format.
package fragments

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"

	"kata-runtime/kernel-config/kconfig"
)

//go:embed *.config
var files embed.FS

// Profile is a name for a choice of topics.
type Profile string

// The profiles.
const (
	// Minimal is what the runtime alone needs.
	Minimal Profile = "minimal"
	// Default runs what common images bring.
	Default Profile = "default"
	// Debug is Default with symbols, tracing and checks.
	Debug Profile = "debug"
	// LSM is Default with AppArmor and SELinux.
	LSM Profile = "lsm"
)

// Profiles returns all of them.
func Profiles() []Profile { return []Profile{Minimal, Default, Debug, LSM} }

// Modular tells whether a kernel of the profile can have modules: the frames of what
// is a module are in the topics that Minimal leaves out.
func (p Profile) Modular() bool { return p != Minimal }

// changes are the fragments of a profile that win over the common topics.
func (p Profile) changes() ([]string, error) {
	switch p {
	case Minimal:
		return []string{"minimal.config"}, nil
	case Default:
		return nil, nil
	case Debug:
		return []string{"symbols.config", "tracing.config", "checks.config"}, nil
	case LSM:
		return []string{"lsm.config"}, nil
	default:
		return nil, fmt.Errorf("no profile %q: want one of %q", string(p), Profiles())
	}
}

// Load returns the options of a profile for an architecture, in Go's name of it (amd64,
// arm64): the common topics, the architecture's own file, which wins over them, and the
// profile's own ones, which win over both.
func Load(arch string, profile Profile) (kconfig.Options, error) {
	own, err := archFile(arch)
	if err != nil {
		return nil, err
	}
	changes, err := profile.changes()
	if err != nil {
		return nil, err
	}
	options, err := readAll(profile.topics())
	if err != nil {
		return nil, err
	}
	for _, names := range [][]string{{own}, changes} {
		parsed, err := readAll(names)
		if err != nil {
			return nil, err
		}
		options = options.Override(parsed)
	}
	return options, nil
}

// readAll returns the options of fragments of which none has an option of another.
func readAll(names []string) (kconfig.Options, error) {
	var options kconfig.Options
	for _, name := range names {
		parsed, err := read(name)
		if err != nil {
			return nil, err
		}
		options = append(options, parsed...)
	}
	return options, options.Validate()
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
func (p Profile) topics() []string {
	topics := []string{
		"base.config", "containers.config", "fs.config", "verity.config", "network.config", "netfilter.config",
		"virtio.config", "vsock.config", "hotplug.config", "hardening.config", "debug.config",
	}
	if p == Minimal {
		// Nothing of the runtime filters packets.
		topics = slices.DeleteFunc(topics, func(name string) bool { return name == "netfilter.config" })
	}
	return topics
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
