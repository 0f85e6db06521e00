package config

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"kata-runtime/virtcontainers/architecture"
)

// Guests is the table [guest]: what machines of other architectures than the host's are
// made from.
type Guests struct {
	// ARM64 is the table [guest.arm64].
	ARM64 Guest `toml:"arm64"`
}

// Guest is what a machine of one architecture is made from, on hosts of another.
type Guest struct {
	// Kernel, Initrd, Image and Modules are what Machine has under these names.
	Kernel  string `toml:"kernel"`
	Initrd  string `toml:"initrd"`
	Image   string `toml:"image"`
	Modules string `toml:"modules"`
	// Path is the program of QEMU that emulates the architecture.
	Path string `toml:"path"`
}

// ArchitectureAuto is the value of Machine.Architecture that leaves it to the pod.
const ArchitectureAuto = "auto"

// guest is the table of an architecture; nil: there is none.
func (c *Config) guest(name string) *Guest {
	if name == architecture.ARM64 {
		return &c.Guest.ARM64
	}
	return nil
}

// ErrArchitecture is wrapped by errors about an architecture that a pod cannot have.
var ErrArchitecture = errors.New("this architecture cannot be had")

// MachineArchitecture is that of the configuration's machines.
func (m *Machine) MachineArchitecture() string {
	if m.Architecture == ArchitectureAuto || m.Architecture == "" {
		return runtime.GOARCH
	}
	return m.Architecture
}

// Emulated tells whether machines are of another architecture than the host's, which
// only software runs.
func (m *Machine) Emulated() bool { return m.MachineArchitecture() != runtime.GOARCH }

// ForArchitecture returns the configuration for a pod whose program, or whose caller,
// wants an architecture, one of architecture.All; empty: nobody has said. It is c, or a copy
// with the files of [guest]'s table in the place of [hypervisor]'s. executable is as in
// ResolveAssets.
func (c *Config) ForArchitecture(executable, name string) (*Config, error) {
	return c.forArchitecture(executable, systemAssets, name)
}

func (c *Config) forArchitecture(executable, system, name string) (*Config, error) {
	now := c.Hypervisor.MachineArchitecture()
	switch {
	case name == "" || name == now:
		return c, nil
	case c.Hypervisor.Architecture != ArchitectureAuto:
		return nil, fmt.Errorf("%w: a pod of %s, where architecture = %q in [%s] of the configuration: set it to %q",
			ErrArchitecture, name, c.Hypervisor.Architecture, machineTable, ArchitectureAuto)
	}
	pod := *c
	pod.Hypervisor.Architecture = name
	if err := pod.resolveAssets(executable, system); err != nil {
		return nil, err
	}
	return &pod, nil
}

// resolveForeign takes what machines of another architecture than the host's are made
// from.
func (c *Config) resolveForeign(executable, system string) error {
	name := c.Hypervisor.Architecture
	guest := c.guest(name)
	if guest == nil {
		return fmt.Errorf("%w: a machine of %s on a host of %s", ErrArchitecture, name, runtime.GOARCH)
	}
	if guest.Kernel == "" {
		sets := foreignSets(executable, system, name)
		found, err := firstSet(sets)
		if err != nil {
			return err
		}
		if found == nil {
			return noForeignAssetsError(name, sets)
		}
		guest.Kernel, guest.Initrd = found.kernel, found.initrd
	}
	c.Hypervisor.Kernel, c.Hypervisor.Initrd, c.Hypervisor.Image = guest.Kernel, guest.Initrd, guest.Image
	c.Hypervisor.Modules, c.Hypervisor.QEMU.Path = guest.Modules, guest.Path
	return nil
}

// foreignSets are assetSets of another architecture, in a directory of its name.
func foreignSets(executable, system, name string) []assets {
	var sets []assets
	for _, dir := range assetDirs(executable, system) {
		sets = append(sets, setsIn(filepath.Join(dir, name))...)
	}
	return sets
}

func noForeignAssetsError(name string, sets []assets) error {
	return fmt.Errorf("%w of %s, which this pod wants (looked for %s): run `make %s` in the checkout, "+
		"or set kernel and initrd in [%s] of the configuration", ErrNoAssets, name, listSets(sets), name, guestTable(name))
}

func guestTable(name string) string { return "guest." + name }

// CheckArchitecture refuses a container for an architecture that the pod's machine does not
// have; by says what tells it. Empty: nobody knows.
func (m *Machine) CheckArchitecture(name, by string) error {
	have := m.MachineArchitecture()
	if name == "" || name == have {
		return nil
	}
	return fmt.Errorf("%w: the container is for %s (%s), and the pod's machine is of %s: an annotation of the pod, %s = %q, chooses another, or architecture in [%s] of the configuration",
		ErrArchitecture, name, by, have, architecture.Annotation, name, machineTable)
}

func architectureOption() Option {
	return Option{
		Table: machineTable, Key: "architecture",
		Values: oneOfText(append([]string{ArchitectureAuto}, architecture.All()...)),
		Meaning: "The machines' architecture. `auto`: what the pod's annotation says, or the program of its first container is for, see [Architectures](#architectures). " +
			"Another than the host's is emulated (`tcg`), whatever `accelerator` says, and its machines are made from the files of its table, such as `[guest.arm64]`, in the place of those of `[hypervisor]`.",
		get: func(c *Config) any { return c.Hypervisor.Architecture },
		check: func(c *Config) string {
			return oneOf(c.Hypervisor.Architecture, append([]string{ArchitectureAuto}, architecture.All()...))
		},
	}
}

func guestOptions() []Option {
	table := guestTable(architecture.ARM64)
	return []Option{
		{
			Table: table, Key: "path",
			Values:  "an absolute path",
			Meaning: "The program of QEMU that emulates the architecture.",
			get:     func(c *Config) any { return c.Guest.ARM64.Path },
			check:   func(c *Config) string { return absolute(c.Guest.ARM64.Path) },
		},
		{
			Table: table, Key: "kernel",
			Values: "empty, or an absolute path",
			Meaning: "The kernel of arm64 guests on hosts of another architecture: an `Image`. Empty: the first complete pair of kernel and initrd is taken, " +
				"see [Kernel and initrd](#kernel-and-initrd). Is set together with `initrd` or with `image`.",
			get: func(c *Config) any { return c.Guest.ARM64.Kernel },
			check: func(c *Config) string {
				return assetPair(c.Guest.ARM64.Kernel, cmp.Or(c.Guest.ARM64.Initrd, c.Guest.ARM64.Image), "initrd or image")
			},
		},
		{
			Table: table, Key: "initrd",
			Values:  "empty, or an absolute path",
			Meaning: "Their initrd, which holds an agent for arm64. Is set together with `kernel`.",
			get:     func(c *Config) any { return c.Guest.ARM64.Initrd },
			check: func(c *Config) string {
				return assetPair(c.Guest.ARM64.Initrd, c.Guest.ARM64.Kernel, "kernel")
			},
		},
		{
			Table: table, Key: "image",
			Values:  "empty, or an absolute path",
			Meaning: "Their disk image in the place of an initrd, as in `[hypervisor]`.",
			get:     func(c *Config) any { return c.Guest.ARM64.Image },
			check: func(c *Config) string {
				return assetPair(c.Guest.ARM64.Image, c.Guest.ARM64.Kernel, "kernel")
			},
		},
		{
			Table: table, Key: "modules",
			Values:  "empty, or an absolute path",
			Meaning: "The modules of their kernel, as in `[hypervisor]`.",
			get:     func(c *Config) any { return c.Guest.ARM64.Modules },
			check: func(c *Config) string {
				if c.Guest.ARM64.Modules == "" {
					return ""
				}
				return absolute(c.Guest.ARM64.Modules)
			},
		},
	}
}

// listSets names pairs for an error.
func listSets(sets []assets) string {
	var looked []string
	for _, set := range sets {
		looked = append(looked, fmt.Sprintf("%s with %s", set.kernel, filepath.Base(set.initrd)))
	}
	return strings.Join(looked, ", ")
}
