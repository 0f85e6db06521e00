package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kata-runtime/virtcontainers/loopback"
)

const (
	// maxVCPUs is what an 8-bit APIC id can name: q35 without an interrupt
	// remapper takes no more.
	maxVCPUs = 255
	// minOverheadMiB is what the processes around an idle VM use.
	minOverheadMiB = 128
	// minMemoryMiB is below what a guest with its initrd unpacked boots in.
	minMemoryMiB = 128
	// maxMemoryMiB is 16 TiB; more is a typing error.
	maxMemoryMiB = 16 << 20
	// maxRootPorts is four slots of eight functions each.
	maxRootPorts = 32
	// maxBridges is the number of slots that are kept for them.
	maxBridges = 4
	// maxBoots is more than any host boots at a time.
	maxBoots = 4096
	// maxDialTimeout, in seconds.
	maxDialTimeout = 3600
	// maxIdleCacheTimeout, in seconds.
	maxIdleCacheTimeout = 86400
	// maxKernelParams is what the x86 kernel takes as its command line, less
	// half for what the runtime itself passes.
	maxKernelParams = 1024
)

// Option describes one key of the configuration file.
type Option struct {
	// Table and Key name it: [Table] Key.
	Table, Key string
	// Values says in words which values are allowed.
	Values string
	// Meaning is its documentation: one or more full sentences.
	Meaning string
	// Default is the default as a Go value: string, int64, bool or []string.
	Default any

	get   func(*Config) any
	check func(*Config) string // what is wrong with the value, or ""
}

// Name is the option's full key: "hypervisor.qemu.path".
func (o *Option) Name() string { return o.Table + "." + o.Key }

// KataName is the full key that Kata Containers has for an option of every
// driver, in a driver's table: "hypervisor.qemu.kernel". It is read too. Empty for
// other options.
func (o *Option) KataName() string {
	if o.Table != machineTable || o.Key == driverKey {
		return ""
	}
	return qemuTable + "." + o.Key
}

// Options lists every option, in the order of the documentation.
func Options() []Option {
	options := slices.Concat(machineOptions(), moduleOptions(), sizeOptions(), sharingOptions(), nicOptions(), confineOptions(), podOptions(), qemuOptions(), guestOptions(), otherOptions(), networkOptions(), factoryOptions())
	defaults := Default()
	for i := range options {
		options[i].Default = options[i].get(defaults)
	}
	return options
}

const (
	machineTable = "hypervisor"
	driverKey    = "driver"
	qemuTable    = "hypervisor.qemu"
	agentTable   = "agent.kata"
	runtimeTable = "runtime"
)

// DebugConsoleKey is the key, in the table [agent.kata], of Agent.DebugConsole.
const DebugConsoleKey = "debug_console_enabled"

func machineOptions() []Option {
	return []Option{
		{
			Table: machineTable, Key: driverKey,
			Values:  oneOfText(drivers()),
			Meaning: "The virtual machine monitor. What is its alone is in a table of its own, such as `[hypervisor.qemu]`.",
			get:     func(c *Config) any { return c.Hypervisor.Driver },
			check:   func(c *Config) string { return oneOf(c.Hypervisor.Driver, drivers()) },
		},
		architectureOption(),
		{
			Table: machineTable, Key: "kernel",
			Values: "empty, or an absolute path",
			Meaning: "The guest's kernel: an uncompressed `vmlinux` with a PVH entry point, or a bzImage. " +
				"Empty: the first complete pair of kernel and initrd is taken, see [Kernel and initrd](#kernel-and-initrd). " +
				"Is set together with `initrd`, because the initrd holds modules for one kernel, or with `image`.",
			get: func(c *Config) any { return c.Hypervisor.Kernel },
			check: func(c *Config) string {
				return assetPair(c.Hypervisor.Kernel, cmp.Or(c.Hypervisor.Initrd, c.Hypervisor.Image), "initrd or image")
			},
		},
		{
			Table: machineTable, Key: "initrd",
			Values:  "empty, or an absolute path",
			Meaning: "The guest's initrd, which holds the agent. Is set together with `kernel`. Where its manifest lies beside it (`initrd.manifest.json` for `initrd.img`, as `rootfs-builder` is told to write it), an initrd that is another one is refused.",
			get:     func(c *Config) any { return c.Hypervisor.Initrd },
			check: func(c *Config) string {
				return assetPair(c.Hypervisor.Initrd, c.Hypervisor.Kernel, "kernel")
			},
		},
		{
			Table: machineTable, Key: "image",
			Values: "empty, or an absolute path",
			Meaning: "A disk image that the guest boots from in the place of an initrd: an erofs or ext4 file system with dm-verity, " +
				"which `rootfs-builder` makes, with its manifest beside it (`guest.manifest.json` for `guest.img`). " +
				"The kernel has device mapper and the file system built in, as the one of `kernel-config` has, or `initrd` has its modules (`rootfs-builder -disk`), " +
				"whose agent then mounts the image. " +
				"The VMs share the file, and read it only. Is set together with `kernel`. See [guest assets](guest-assets.md).",
			get: func(c *Config) any { return c.Hypervisor.Image },
			check: func(c *Config) string {
				return assetPair(c.Hypervisor.Image, c.Hypervisor.Kernel, "kernel")
			},
		},
		{
			Table: machineTable, Key: "kernel_params",
			Values:  fmt.Sprintf("up to %d printable ASCII characters", maxKernelParams),
			Meaning: "Parameters that are appended to the guest kernel's command line, separated by spaces.",
			get:     func(c *Config) any { return c.Hypervisor.KernelParams },
			check:   func(c *Config) string { return kernelParams(c.Hypervisor.KernelParams) },
		},
		{
			Table: machineTable, Key: "accelerator",
			Values: oneOfText(accelerators()),
			Meaning: "How the VM's CPUs run. `kvm` is hardware virtualization, `tcg` is QEMU's emulation, slower by an order of magnitude. " +
				"`auto` takes KVM where it is known to run an unmodified guest, and TCG, with a warning, elsewhere.",
			get:   func(c *Config) any { return c.Hypervisor.Accelerator },
			check: func(c *Config) string { return oneOf(c.Hypervisor.Accelerator, accelerators()) },
		},
		{
			Table: machineTable, Key: "vsock",
			Values: oneOfText(vsocks()),
			Meaning: "The host's end of the channel to the guest. `vhost` is the kernel's `/dev/vhost-vsock`, " +
				"`user` is a device of the runtime's own, in a process of its own, which needs nothing of the host. " +
				"`auto` takes `vhost` where it is usable, and `user` elsewhere.",
			get:   func(c *Config) any { return c.Hypervisor.Vsock },
			check: func(c *Config) string { return oneOf(c.Hypervisor.Vsock, vsocks()) },
		},
	}
}

func sizeOptions() []Option {
	return []Option{
		{
			Table: machineTable, Key: "default_vcpus",
			Values:  rangeText(1, maxVCPUs),
			Meaning: "The vCPUs that a VM has besides those that the limits of its containers ask for.",
			get:     func(c *Config) any { return int64(c.Hypervisor.DefaultVCPUs) },
			check: func(c *Config) string {
				return inRange(c.Hypervisor.DefaultVCPUs, 1, maxVCPUs)
			},
		},
		{
			Table: machineTable, Key: "default_maxvcpus",
			Values:  rangeText(0, maxVCPUs),
			Meaning: "The most vCPUs that a VM can grow to. 0: as many as the host has CPUs. Otherwise not below `default_vcpus`.",
			get:     func(c *Config) any { return int64(c.Hypervisor.DefaultMaxVCPUs) },
			check: func(c *Config) string {
				h := &c.Hypervisor
				return cmp.Or(inRange(h.DefaultMaxVCPUs, 0, maxVCPUs),
					zeroOrNotBelow(h.DefaultMaxVCPUs, h.DefaultVCPUs, "default_vcpus"))
			},
		},
		{
			Table: machineTable, Key: "default_memory",
			Values:  rangeText(minMemoryMiB, maxMemoryMiB) + " (MiB)",
			Meaning: "The memory that a VM has besides what the limits of its containers ask for, in MiB. The host gives it page by page, as the guest uses it.",
			get:     func(c *Config) any { return int64(c.Hypervisor.DefaultMemoryMiB) },
			check: func(c *Config) string {
				return inRange(c.Hypervisor.DefaultMemoryMiB, minMemoryMiB, maxMemoryMiB)
			},
		},
		{
			Table: machineTable, Key: "default_maxmemory",
			Values:  fmt.Sprintf("0, or %s (MiB)", rangeText(minMemoryMiB, maxMemoryMiB)),
			Meaning: "The most memory that a VM can grow to, in MiB. 0: as much as the host has. Otherwise not below `default_memory`.",
			get:     func(c *Config) any { return int64(c.Hypervisor.DefaultMaxMemoryMiB) },
			check: func(c *Config) string {
				h := &c.Hypervisor
				if h.DefaultMaxMemoryMiB == 0 {
					return ""
				}
				return cmp.Or(inRange(h.DefaultMaxMemoryMiB, minMemoryMiB, maxMemoryMiB),
					zeroOrNotBelow(h.DefaultMaxMemoryMiB, h.DefaultMemoryMiB, "default_memory"))
			},
		},
		{
			Table: machineTable, Key: "reclaim_guest_freed_memory",
			Values: "`true` or `false`",
			Meaning: "Give the host back what containers free of the VM's memory, in blocks of 2 MiB, within some seconds. " +
				"`false`: the host never has back what a VM has once used, until the VM ends.",
			get:   func(c *Config) any { return c.Hypervisor.ReclaimFreedMemory },
			check: func(*Config) string { return "" },
		},
	}
}

func sharingOptions() []Option {
	return []Option{
		{
			Table: machineTable, Key: "shared_fs",
			Values: oneOfText(sharedFileSystems()),
			Meaning: "How root file systems and volumes reach the guest. `virtio-fs` is by the server that `virtio_fs_daemon` names; " +
				"`virtio-9p` is built into QEMU, and slower. `auto` takes `virtio-fs`, and `virtio-9p` where `virtio_fs_daemon` is empty and no virtiofsd is installed.",
			get:   func(c *Config) any { return c.Hypervisor.SharedFS },
			check: func(c *Config) string { return oneOf(c.Hypervisor.SharedFS, sharedFileSystems()) },
		},
		{
			Table: machineTable, Key: "virtio_fs_daemon",
			Values: "empty, `kata-fs`, or an absolute path",
			Meaning: "The file server. `kata-fs`: the runtime's own, which needs nothing installed, see [files](files.md). " +
				"Empty: a virtiofsd is searched where distributions install it. A path: virtiofsd's program.",
			get: func(c *Config) any { return c.Hypervisor.VirtioFSDaemon },
			check: func(c *Config) string {
				switch c.Hypervisor.VirtioFSDaemon {
				case "", FileServer:
					return ""
				}
				return absolute(c.Hypervisor.VirtioFSDaemon)
			},
		},
		{
			Table: machineTable, Key: "virtio_fs_cache",
			Values: oneOfText(cacheModes()),
			Meaning: "What the guest may cache of shared files. `never`: nothing, so that every change on the host is seen at once; programs cannot map such files as shared memory then (`ENODEV`). " +
				"`auto`: data and names, for about a second; with `kata-fs` those of root file systems, while in volumes a change is seen by the next call. `brief`: `auto`, but with `kata-fs` names of directories in volumes hold for 4 to 8 ms while the guest walks about there, see [files](files.md#how-fresh): a walk takes half the requests. `relaxed`: `auto`, for a second in volumes too, also for what another container of the pod changes there: with `kata-fs` walks and small files take half the time or less. `metadata`: names and attributes but no data (not every virtiofsd knows it). " +
				"`always`: everything; for files that nobody changes on the host.",
			get:   func(c *Config) any { return c.Hypervisor.VirtioFSCache },
			check: func(c *Config) string { return oneOf(c.Hypervisor.VirtioFSCache, cacheModes()) },
		},
		{
			Table: machineTable, Key: "virtio_fs_notify",
			Values: "`true` or `false`",
			Meaning: "With `kata-fs`, what the host, another pod or another container changes in a volume is an event of inotify in the container, see [files](files.md#events). " +
				"Without, inotify tells of a container's own changes alone.",
			get:   func(c *Config) any { return c.Hypervisor.VirtioFSNotify },
			check: func(*Config) string { return "" },
		},
		{
			Table: machineTable, Key: "virtio_fs_extra_args",
			Values:  "a list of strings",
			Meaning: "Arguments that are appended to virtiofsd's own, such as `[\"--thread-pool-size=1\"]`; `kata-fs` has no use for any.",
			get:     func(c *Config) any { return c.Hypervisor.VirtioFSExtraArgs },
			check:   func(c *Config) string { return extraArgs(c.Hypervisor.VirtioFSExtraArgs) },
		},
	}
}

func qemuOptions() []Option {
	return []Option{
		{
			Table: qemuTable, Key: "path",
			Values:  "an absolute path",
			Meaning: "QEMU's program.",
			get:     func(c *Config) any { return c.Hypervisor.QEMU.Path },
			check:   func(c *Config) string { return absolute(c.Hypervisor.QEMU.Path) },
		},
		{
			Table: qemuTable, Key: "pcie_root_port",
			Values: rangeText(0, maxRootPorts),
			Meaning: "How many devices can be plugged into PCI Express ports of a running VM, besides those on bridges. " +
				"The ports exist from the start, and each makes the boot a little longer.",
			get:   func(c *Config) any { return int64(c.Hypervisor.QEMU.PCIeRootPorts) },
			check: func(c *Config) string { return inRange(c.Hypervisor.QEMU.PCIeRootPorts, 0, maxRootPorts) },
		},
		{
			Table: qemuTable, Key: "default_bridges",
			Values: rangeText(0, maxBridges),
			Meaning: "How many PCI bridges a VM has. Into each, 31 devices (block devices, network interfaces) can be plugged while the VM runs; block devices are " +
				"volumes, and layers of images that a snapshotter keeps on disks. " +
				"A bridge makes the boot longer by as much as four root ports do.",
			get:   func(c *Config) any { return int64(c.Hypervisor.QEMU.Bridges) },
			check: func(c *Config) string { return inRange(c.Hypervisor.QEMU.Bridges, 0, maxBridges) },
		},
	}
}

func otherOptions() []Option {
	return []Option{
		{
			Table: agentTable, Key: "dial_timeout",
			Values:  rangeText(1, maxDialTimeout) + " (seconds)",
			Meaning: "How long a booting guest may take until its agent answers, in seconds, from when it has its turn (`boots_at_once`).",
			get:     func(c *Config) any { return int64(c.Agent.DialTimeout / time.Second) },
			check: func(c *Config) string {
				if c.Agent.DialTimeout%time.Second != 0 {
					return "must be whole seconds"
				}
				return inRange(int(c.Agent.DialTimeout/time.Second), 1, maxDialTimeout)
			},
		},
		kernelModulesOption(),
		appArmorOption(),
		selinuxOption(),
		{
			Table: agentTable, Key: "idle_cache_timeout",
			Values: rangeText(0, maxIdleCacheTimeout) + " (seconds)",
			Meaning: "After how many seconds without work a pod's guest drops what it has of files in its memory, which the host then has back " +
				"(`reclaim_guest_freed_memory`): the host mostly has the same files in its own. `0`: never.",
			get:   func(c *Config) any { return int64(c.Agent.IdleCacheTimeout) },
			check: func(c *Config) string { return inRange(c.Agent.IdleCacheTimeout, 0, maxIdleCacheTimeout) },
		},
		{
			Table: agentTable, Key: DebugConsoleKey,
			Values: "`true` or `false`",
			Meaning: "Let `kata-runtime exec --guest` run programs in the guest itself, in no container, as its root: a shell, where the image has one (`make image BUSYBOX=/bin/busybox`). " +
				"Counts for pods that start from then on. Only root of the host, and who owns the pod's state directory, can use it.",
			get:   func(c *Config) any { return c.Agent.DebugConsole },
			check: func(*Config) string { return "" },
		},
		{
			Table: runtimeTable, Key: "static_sandbox_resource_mgmt",
			Values: "`true` or `false`",
			Meaning: "`true`: a VM's size is settled when it starts, from the sandbox's annotations, or the first container's limits where there are none. " +
				"`false`: the VM also grows with the limits of later containers and of updates.",
			get:   func(c *Config) any { return c.Runtime.StaticSandboxResources },
			check: func(*Config) string { return "" },
		},
		{
			Table: runtimeTable, Key: "overhead_memory",
			Values: rangeText(minOverheadMiB, maxMemoryMiB) + " (MiB)",
			Meaning: "The host's control group of a pod gets the VM's memory and this as its limit: " +
				"what the VMM, the file server and the supervisor may use, in MiB. It gets 1024 MiB more where no container has a memory limit. An emulated VM gets 256 MiB more, for the code that is translated.",
			get:   func(c *Config) any { return int64(c.Runtime.OverheadMemoryMiB) },
			check: func(c *Config) string { return inRange(c.Runtime.OverheadMemoryMiB, minOverheadMiB, maxMemoryMiB) },
		},
		{
			Table: runtimeTable, Key: "overhead_vcpus",
			Values:  rangeText(1, maxVCPUs),
			Meaning: "The host's control group of a pod whose containers have a CPU limit gets their sum and this many CPUs as its limit.",
			get:     func(c *Config) any { return int64(c.Runtime.OverheadVCPUs) },
			check:   func(c *Config) string { return inRange(c.Runtime.OverheadVCPUs, 1, maxVCPUs) },
		},
		{
			Table: runtimeTable, Key: "boots_at_once",
			Values: fmt.Sprintf("-1 to %d", maxBoots),
			Meaning: "How many VMs of this host boot at a time, those of all runtimes with their root directories taken together; others wait for their turn, in the order in which they came. " +
				"`0`: as many as there are CPUs; `-1`: nobody waits. `dial_timeout` counts from the turn.",
			get: func(c *Config) any { return int64(c.Runtime.BootsAtOnce) },
			check: func(c *Config) string {
				if n := c.Runtime.BootsAtOnce; n < -1 || n > maxBoots {
					return fmt.Sprintf("must be -1 to %d", maxBoots)
				}
				return ""
			},
		},
		{
			Table: runtimeTable, Key: "enable_debug",
			Values:  "`true` or `false`",
			Meaning: "Log at debug level, as with the option `--debug`.",
			get:     func(c *Config) any { return c.Runtime.Debug },
			check:   func(*Config) string { return "" },
		},
		{
			Table: runtimeTable, Key: "disable_socket_relay",
			Values: "`true` or `false`",
			Meaning: "Do not let containers connect to unix sockets of the host that their bind mounts show. " +
				"They still see such sockets, and connecting to one is refused.",
			get:   func(c *Config) any { return c.Runtime.DisableSocketRelay },
			check: func(*Config) string { return "" },
		},
		{
			Table: runtimeTable, Key: "loopback_ports",
			Values: "a list of `tcp:PORT`, `udp:PORT` (of 127.0.0.1), or with an address, `udp:127.0.0.11:53`, `tcp:[::1]:9000`",
			Meaning: "Servers on the host that listen on loopback in a pod's network namespace, and that its containers are to reach under the same address. " +
				"Nameservers on loopback that a container's `/etc/resolv.conf` names need no mention, but for a pod on the host's network. " +
				"In the guest, such a port is taken; in the pod's namespace on the host, connections to it stay there, while others to 127.0.0.1 and ::1 reach the guest.",
			get:   func(c *Config) any { return c.Runtime.LoopbackPorts },
			check: func(c *Config) string { return loopbackPorts(c.Runtime.LoopbackPorts) },
		},
	}
}

func drivers() []string      { return []string{DriverQEMU} }
func accelerators() []string { return []string{AcceleratorAuto, AcceleratorKVM, AcceleratorTCG} }
func vsocks() []string       { return []string{VsockAuto, VsockVhost, VsockUser} }
func cacheModes() []string {
	return []string{"never", "metadata", "auto", "brief", "relaxed", "always"}
}

func sharedFileSystems() []string {
	return []string{SharedFSAuto, SharedFSVirtioFS, SharedFS9P}
}

func oneOfText(allowed []string) string { return "`" + strings.Join(allowed, "`, `") + "`" }
func rangeText(low, high int) string    { return fmt.Sprintf("%d-%d", low, high) }

func oneOf(value string, allowed []string) string {
	if slices.Contains(allowed, value) {
		return ""
	}
	return fmt.Sprintf("must be one of %q", allowed)
}

func inRange(value, low, high int) string {
	if value < low || value > high {
		return fmt.Sprintf("must be %d-%d", low, high)
	}
	return ""
}

// zeroOrNotBelow holds a bound against the option that it bounds.
func zeroOrNotBelow(bound, value int, key string) string {
	if bound != 0 && bound < value {
		return fmt.Sprintf("must not be below %s, which is %d", key, value)
	}
	return ""
}

func absolute(path string) string {
	switch {
	case strings.ContainsRune(path, 0):
		return "must not hold a NUL byte"
	case !filepath.IsAbs(path):
		return "must be an absolute path"
	default:
		return ""
	}
}

// assetPair blames the path that is set, because that one has a file to name.
func assetPair(path, other, otherKey string) string {
	switch {
	case path == "":
		return ""
	case other == "":
		return otherKey + " must be set too"
	default:
		return absolute(path)
	}
}

func kernelParams(params string) string {
	if len(params) > maxKernelParams {
		return fmt.Sprintf("must have at most %d characters", maxKernelParams)
	}
	for _, r := range params {
		if r < ' ' || r > '~' {
			return fmt.Sprintf("must hold printable ASCII alone, not %q", r)
		}
	}
	return ""
}

func loopbackPorts(texts []string) string {
	if _, err := loopback.ParseServices(texts); err != nil {
		return "must list servers on loopback, such as \"tcp:8080\": " + err.Error()
	}
	return ""
}

func extraArgs(args []string) string {
	for _, arg := range args {
		if arg == "" || strings.ContainsRune(arg, 0) {
			return "must hold neither empty arguments nor NUL bytes"
		}
	}
	return ""
}
