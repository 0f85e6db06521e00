package config

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Config is the effective configuration: defaults, overridden by the main file
// and then by its drop-ins. docs/configuration.md says what each option means.
type Config struct {
	// Hypervisor is the table [hypervisor] with those of its drivers.
	Hypervisor Hypervisor
	// Guest is the table [guest].
	Guest Guests
	// Agent is the table [agent.kata].
	Agent Agent
	// Runtime is the table [runtime].
	Runtime Runtime
	// Factory is the table [factory].
	Factory Factory
	// Files are the files that were read, in order; later ones won.
	Files []string
}

// Hypervisor says which driver makes a VM, and of what.
type Hypervisor struct {
	// Driver is DriverQEMU.
	Driver string `toml:"driver"`
	Machine
	// QEMU is the table [hypervisor.qemu].
	QEMU QEMU `toml:"qemu"`
}

// QEMU is what only that driver has.
type QEMU struct {
	// Path is QEMU's program, absolute.
	Path string `toml:"path"`
	// PCIeRootPorts is how many devices can be plugged into PCI Express ports
	// of a running VM, 0-32.
	PCIeRootPorts int `toml:"pcie_root_port"`
	// Bridges is how many PCI bridges, with room for 31 devices each, a VM has,
	// 0-4.
	Bridges int `toml:"default_bridges"`
}

// Machine is what a VM of every driver has: which files make it, how large it is,
// and how it is connected with the host.
type Machine struct {
	// Architecture is ArchitectureAuto or one of architecture.All, see ForArchitecture.
	Architecture string `toml:"architecture"`
	// Kernel and Initrd are the guest's, absolute. Both are set or none is;
	// ResolveAssets fills empty ones. Image is a disk image in the place of Initrd.
	Kernel string `toml:"kernel"`
	Initrd string `toml:"initrd"`
	Image  string `toml:"image"`
	// Modules is the directory of the guest kernel's modules, absolute; empty: there
	// are none on demand.
	Modules string `toml:"modules"`
	// DenyModules are names of modules that are never loaded.
	DenyModules []string `toml:"deny_modules"`
	// KernelParams is appended to the kernel command line, separated by
	// spaces.
	KernelParams string `toml:"kernel_params"`
	// Accelerator is AcceleratorAuto, AcceleratorKVM or AcceleratorTCG.
	Accelerator string `toml:"accelerator"`
	// Vsock is VsockAuto, VsockVhost or VsockUser.
	Vsock string `toml:"vsock"`
	// DefaultVCPUs is the number of vCPUs that a VM starts with, 1-255.
	DefaultVCPUs int `toml:"default_vcpus"`
	// DefaultMaxVCPUs bounds the vCPUs of a VM, 0-255; 0 stands for the host's
	// CPUs, see MaxVCPUs.
	DefaultMaxVCPUs int `toml:"default_maxvcpus"`
	// DefaultMemoryMiB is the memory that a VM starts with, in MiB, 128 or
	// more.
	DefaultMemoryMiB int `toml:"default_memory"`
	// DefaultMaxMemoryMiB bounds the memory of a VM, in MiB; 0 stands for the
	// host's memory.
	DefaultMaxMemoryMiB int `toml:"default_maxmemory"`
	// ReclaimFreedMemory gives the host back what the guest no longer uses of its
	// memory.
	ReclaimFreedMemory bool `toml:"reclaim_guest_freed_memory"`
	// SharedFS is SharedFSAuto, SharedFSVirtioFS or SharedFS9P.
	SharedFS string `toml:"shared_fs"`
	// VirtioFSDaemon is virtiofsd's program, absolute, or FileServer; empty: a
	// virtiofsd is searched where distributions install it.
	VirtioFSDaemon string `toml:"virtio_fs_daemon"`
	// VirtioFSCache is virtiofsd's cache mode: "never", "metadata", "auto", "brief", "relaxed" or
	// "always".
	VirtioFSCache string `toml:"virtio_fs_cache"`
	// VirtioFSNotify has the guest told of what others change in volumes.
	VirtioFSNotify bool `toml:"virtio_fs_notify"`
	// VirtioFSExtraArgs are appended to virtiofsd's arguments.
	VirtioFSExtraArgs []string `toml:"virtio_fs_extra_args"`
	// DisableVhostNet leaves the work of network interfaces to the VMM.
	DisableVhostNet bool `toml:"disable_vhost_net"`
	// Confine confines the VMM; ConfineUsers is the range of its user ids, "FIRST-LAST",
	// see UserRange.
	Confine      bool   `toml:"confine"`
	ConfineUsers string `toml:"confine_users"`
	// ConfineWithout names parts of the confinement that are left out.
	ConfineWithout []string `toml:"confine_without"`
	// ConfineAgent has a confined process read what the guest's agent says.
	ConfineAgent bool `toml:"confine_agent"`
	// LogRefusedCalls lets the kernel log each system call that is refused.
	LogRefusedCalls bool `toml:"log_refused_calls"`
	// EnableAnnotations are regular expressions for the names of the annotations
	// by which a pod may change the configuration, see ForPod.
	EnableAnnotations []string `toml:"enable_annotations"`
}

// Agent says how the host talks to the agent in the guest.
type Agent struct {
	// DialTimeout is how long a booting guest may take until its agent
	// answers; whole seconds, 1 s to 1 h.
	DialTimeout time.Duration
	// KernelModules are modules that each guest loads at once: names, each with
	// parameters behind it.
	KernelModules []string
	// AppArmorPolicies is a directory of compiled policies that each guest's kernel is
	// given, and SELinuxPolicy a file; containers then have their labels. Empty: they have
	// none.
	AppArmorPolicies string
	SELinuxPolicy    string
	// DebugConsole lets processes be run in the guest itself.
	DebugConsole bool
	// IdleCacheTimeout is after how many seconds a guest that does nothing drops
	// what it has of files in its memory; 0: never.
	IdleCacheTimeout int
}

// Runtime is what concerns the runtime itself.
type Runtime struct {
	// StaticSandboxResources settles a VM's size when it starts.
	StaticSandboxResources bool `toml:"static_sandbox_resource_mgmt"`
	// OverheadMemoryMiB and OverheadVCPUs are what a pod's processes on the host
	// may use beyond the VM's memory and the containers' CPU limits.
	OverheadMemoryMiB int `toml:"overhead_memory"`
	OverheadVCPUs     int `toml:"overhead_vcpus"`
	// BootsAtOnce is how many VMs of the host boot at a time; 0: as many as there are
	// CPUs, -1: any number.
	BootsAtOnce int `toml:"boots_at_once"`
	// Debug makes the runtime log at debug level.
	Debug bool `toml:"enable_debug"`
	// DisableSocketRelay keeps containers from connecting to the host's unix
	// sockets that their bind mounts show.
	DisableSocketRelay bool `toml:"disable_socket_relay"`
	// NetworkModel is NetworkTC, NetworkMacvtap or NetworkNone.
	NetworkModel string `toml:"internetworking_model"`
	// HostNetwork is HostNetworkRefuse or HostNetworkPasst.
	HostNetwork string `toml:"host_network"`
	// HostTCPPorts and HostUDPPorts are the host's ports that lead to a pod on
	// the host's network: "none", "all", or ports and ranges.
	HostTCPPorts string `toml:"host_network_tcp_ports"`
	HostUDPPorts string `toml:"host_network_udp_ports"`
	// LoopbackPorts are servers on loopback of a pod's network namespace on the
	// host that its containers can reach, in the form of loopback.ParseServices.
	LoopbackPorts []string `toml:"loopback_ports"`
}

// Factory says how many machines are prepared before there are pods for them, and
// when.
type Factory struct {
	// PoolSize is how many machines each front end has prepared; 0: none.
	PoolSize int `toml:"pool_size"`
	// Template lets machines begin as copies of a saved one.
	Template bool `toml:"template"`
	// MaxLoadPercent is the host's load, in percent of its CPUs, from which on none
	// is prepared; 0: whatever the load is.
	MaxLoadPercent int `toml:"max_load"`
	// MinMemoryMiB is the memory that the host has to have left, in MiB, beside what
	// the machine may take.
	MinMemoryMiB int `toml:"min_memory"`
	// Dir is the directory by which prepared machines are found.
	Dir string `toml:"dir"`
}

// DriverQEMU is the value of Hypervisor.Driver.
const DriverQEMU = "qemu"

// FileServer is the value of virtio_fs_daemon for the file server of our own.
const FileServer = "kata-fs"

// Values of Machine.Accelerator.
const (
	AcceleratorAuto = "auto"
	AcceleratorKVM  = "kvm"
	AcceleratorTCG  = "tcg"
)

// Values of Machine.Vsock.
const (
	VsockAuto  = "auto"
	VsockVhost = "vhost"
	VsockUser  = "user"
)

// Values of Machine.SharedFS.
const (
	SharedFSAuto     = "auto"
	SharedFSVirtioFS = "virtio-fs"
	SharedFS9P       = "virtio-9p"
)

// Values of Runtime.NetworkModel.
const (
	NetworkTC      = "tcfilter"
	NetworkMacvtap = "macvtap"
	NetworkNone    = "none"
)

// Values of Runtime.HostNetwork.
const (
	HostNetworkRefuse = "refuse"
	HostNetworkPasst  = "passt"
)

// Default returns the configuration that holds without any file.
func Default() *Config {
	return &Config{
		Hypervisor: Hypervisor{
			Driver: DriverQEMU,
			Machine: Machine{
				Architecture:       ArchitectureAuto,
				Accelerator:        AcceleratorAuto,
				Vsock:              VsockAuto,
				DefaultVCPUs:       1,
				DefaultMemoryMiB:   2048,
				SharedFS:           SharedFSAuto,
				VirtioFSDaemon:     FileServer,
				VirtioFSCache:      "auto",
				ReclaimFreedMemory: true,
				Confine:            true,
				ConfineAgent:       true,
				ConfineUsers:       defaultUsers(),
				ConfineWithout:     []string{},
				DenyModules:        rareModules(),
			},
			QEMU: QEMU{Path: "/usr/bin/qemu-system-x86_64", Bridges: 1},
		},
		Guest: Guests{ARM64: Guest{Path: "/usr/bin/qemu-system-aarch64"}},
		Agent: Agent{DialTimeout: 60 * time.Second, KernelModules: []string{}, IdleCacheTimeout: 300},
		Runtime: Runtime{
			OverheadMemoryMiB: 512, OverheadVCPUs: 1, NetworkModel: NetworkTC,
			HostNetwork: HostNetworkRefuse, HostTCPPorts: "none", HostUDPPorts: "none",
		},
		Factory: Factory{MaxLoadPercent: 80, MinMemoryMiB: 1024, Dir: "/run/kata-factory"},
	}
}

// MaxMemoryMiB is the bound of a VM's memory: DefaultMaxMemoryMiB or, when that
// is 0, the host's memory, and never less than DefaultMemoryMiB.
func (m *Machine) MaxMemoryMiB() int {
	bound := m.DefaultMaxMemoryMiB
	var info unix.Sysinfo_t
	if bound == 0 && unix.Sysinfo(&info) == nil {
		bound = int(min(info.Totalram*uint64(info.Unit)>>20, maxMemoryMiB))
	}
	return max(bound, m.DefaultMemoryMiB)
}

// MaxVCPUs is the bound of a VM's vCPUs: DefaultMaxVCPUs or, when that is 0,
// the host's CPUs, and never less than DefaultVCPUs.
func (m *Machine) MaxVCPUs() int {
	bound := m.DefaultMaxVCPUs
	if bound == 0 {
		bound = min(runtime.NumCPU(), maxVCPUs)
	}
	return max(bound, m.DefaultVCPUs)
}
