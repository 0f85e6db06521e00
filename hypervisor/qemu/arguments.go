package qemu

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
)

// firstInherited is the first descriptor of os/exec's ExtraFiles in the child.
const firstInherited = 3

// dimmSlots is how often memory can grow. A vhost-user back end takes 8 memory
// regions unless it negotiated more, and the guest's start size takes up to
// three (below 640 KiB, below and above 4 GiB).
const dimmSlots = 4

// Channels are the descriptors that QEMU gets besides its devices': its end of
// the QMP connection and of the console, both stream sockets.
type Channels struct {
	QMP, Console *os.File
}

// Arguments returns QEMU's arguments, without the program's name, and the files
// that it inherits, the first of them as descriptor 3. It touches neither
// host nor files. An option that is out of range is an error.
func Arguments(o Options, c Channels) ([]string, []*os.File, error) {
	if err := o.normalize(); err != nil {
		return nil, nil, err
	}
	line := &commandLine{}
	line.add("-name", quote(o.Name)+",debug-threads=on")
	line.add("-no-user-config")
	line.add("-nodefaults")
	line.add("-display", "none")
	line.add("-no-reboot")
	line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	line.machine(&o)
	line.channels(c)
	if o.ReclaimMemory {
		line.add("-device", "virtio-balloon-pci,disable-legacy=on,free-page-reporting=on")
	}
	line.rootPorts(o.RootPorts)
	line.bridges(o.Bridges)
	for i, d := range o.Devices {
		line.device(i, d)
	}
	line.add("-kernel", o.Kernel)
	if o.Initrd != "" {
		line.add("-initrd", o.Initrd)
	}
	line.add("-append", o.commandLine())
	return line.args, line.files, nil
}

// commandLine collects arguments and the files that they name.
type commandLine struct {
	args  []string
	files []*os.File
}

func (l *commandLine) add(args ...string) {
	l.args = append(l.args, args...)
}

// inherit returns the descriptor that file has in QEMU.
func (l *commandLine) inherit(file *os.File) string {
	l.files = append(l.files, file)
	return strconv.Itoa(firstInherited + len(l.files) - 1)
}

// inheritAll returns the descriptors as QEMU's options list them.
func (l *commandLine) inheritAll(files []*os.File) string {
	fds := make([]string, len(files))
	for i, file := range files {
		fds[i] = l.inherit(file)
	}
	return strings.Join(fds, ":")
}

// quote makes text safe as a value in QEMU's key=value,... syntax.
func quote(text string) string {
	return strings.ReplaceAll(text, ",", ",,")
}

func (l *commandLine) machine(o *Options) {
	memory := strconv.Itoa(o.Size.MemoryMiB) + "M"
	// No core, should one be written, has the guest's memory.
	l.add("-machine", o.arch.machine(o.Accelerator)+",memory-backend=ram,dump-guest-core=off")
	l.add("-accel", accelerator(o))
	l.add("-cpu", cpuModel(o))
	smp, most := fmt.Sprintf("cpus=%d", o.Size.VCPUs), o.MaxSize.VCPUs
	if o.Accelerator == accel.TCG {
		// For a machine that can never have a second CPU, QEMU before 8 leaves
		// out the guest's memory barriers. The guest and a device's back end in
		// another process then miss each other's notifications now and again,
		// and the queue stands still; virtiofsd's of forgotten files does so
		// within some 10,000 files.
		most = max(most, 2)
	}
	if most > o.Size.VCPUs {
		smp += fmt.Sprintf(",maxcpus=%d", most)
	}
	l.add("-smp", smp)
	size := "size=" + memory
	if o.MaxSize.MemoryMiB > o.Size.MemoryMiB {
		// Each slot's memory is aligned, to 1 GiB at most.
		size += fmt.Sprintf(",slots=%d,maxmem=%dM", dimmSlots, o.MaxSize.MemoryMiB+memoryBlockMiB*dimmSlots)
	}
	l.add("-m", size)
	// Shared memory, because virtiofsd and the vsock device map the guest's.
	if o.Memory == nil {
		l.add("-object", "memory-backend-memfd,id=ram,share=on,size="+memory)
		return
	}
	// Only what QEMU opens by a name is left out when it saves a VM (from 8.1 on).
	l.add("-object", "memory-backend-file,id=ram,share=on,mem-path=/proc/self/fd/"+l.inherit(o.Memory)+",size="+memory)
	if o.Incoming {
		l.add("-incoming", "defer", "-S")
	}
}

func accelerator(o *Options) string {
	if o.Accelerator == accel.KVM {
		return "kvm"
	}
	return "tcg,tb-size=" + strconv.Itoa(translationMiB)
}

func cpuModel(o *Options) string {
	if o.Accelerator == accel.KVM {
		return "host"
	}
	return o.arch.emulated
}

func (l *commandLine) channels(c Channels) {
	l.add("-chardev", "socket,id=qmp,fd="+l.inherit(c.QMP))
	l.add("-mon", "chardev=qmp,mode=control")
	l.add("-chardev", "socket,id=console,mux=on,fd="+l.inherit(c.Console))
	l.add("-device", "virtio-serial-pci,disable-legacy=on,max_ports=1")
	l.add("-device", "virtconsole,chardev=console")
	// What the kernel says before the virtio console is there. A byte costs exits
	// of the VM, so that nothing else is to come this way.
	l.add("-serial", "chardev:console")
	l.add("-object", "rng-random,id=entropy,filename=/dev/urandom")
	l.add("-device", "virtio-rng-pci,disable-legacy=on,rng=entropy")
}

// rootPorts makes the hot-plug slots, eight to a PCI slot. They need no I/O
// space, as every device that is plugged is virtio 1.0.
func (l *commandLine) rootPorts(n int) {
	for i := range n {
		port := fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,addr=0x%x.%d,io-reserve=0",
			rootPort(i), i+1, firstPortSlot+i/functionsPerSlot, i%functionsPerSlot)
		if i%functionsPerSlot == 0 {
			port += ",multifunction=on"
		}
		l.add("-device", port)
	}
}

// bridges makes PCI bridges, whose slots the firmware's tables describe: the
// guest is told through ACPI what comes and goes. A bridge with a hot-plug
// controller of its own (shpc) would wait for a button each time. The firmware
// gives an empty bridge no memory unless it is asked for.
func (l *commandLine) bridges(n int) {
	for i := range n {
		l.add("-device", fmt.Sprintf("pci-bridge,id=%s,chassis_nr=%d,addr=0x%x,shpc=off,io-reserve=0,mem-reserve=%dM,pref64-reserve=%dM",
			bridge(i), firstBridgeChassis+i, firstBridgeSlot+i, bridgeWindowMiB, bridgeWindowMiB))
	}
}

const (
	functionsPerSlot = 8
	// firstPortSlot leaves the slots below to the devices that QEMU places.
	firstPortSlot = 0x18
	// firstBridgeSlot follows those of the root ports.
	firstBridgeSlot = firstPortSlot + maxRootPorts/functionsPerSlot
	// firstBridgeChassis follows those of the root ports.
	firstBridgeChassis = maxRootPorts + 1
	// bridgeSlots is how many devices a bridge takes. Slot 0 is left to a
	// bridge's own hot-plug controller.
	bridgeSlots = 31
	// bridgeWindowMiB has room for the registers of as many virtio devices: 16
	// KiB each, and 4 KiB of interrupt vectors.
	bridgeWindowMiB = 1
)

func bridge(i int) string { return "bridge" + strconv.Itoa(i) }

// slot is a place for a device that is plugged into the running VM.
type slot struct {
	bus string
	// address is the device's number on the bus; root ports have one only.
	address int
	// occupant is the device's id, empty while the slot is free.
	occupant string
}

// slots lists the places that a VM has: those of bridges first, which take only
// virtio devices and the like, so that ports are left for others.
func slots(o *Options) []*slot {
	var all []*slot
	for i := range o.Bridges {
		for address := 1; address <= bridgeSlots; address++ {
			all = append(all, &slot{bus: bridge(i), address: address})
		}
	}
	for i := range o.RootPorts {
		all = append(all, &slot{bus: rootPort(i)})
	}
	return all
}

func rootPort(i int) string { return "port" + strconv.Itoa(i) }

// commandLine is the kernel's.
func (o *Options) commandLine() string {
	params := slices.Concat(machineParams(), o.arch.params)
	if o.Accelerator == accel.TCG {
		params = append(params, emulatedParam)
		if o.counterKHz != 0 && o.arch.hostCounter {
			params = append(params, counterParam+strconv.Itoa(o.counterKHz))
		}
	}
	return strings.Join(append(params, o.KernelParams...), " ")
}

// machineParams are the kernel parameters that fit the driver's machine: where the
// console is, what need not be probed, and that a panic ends the VM.
func machineParams() []string {
	return []string{
		"console=hvc0", "panic=-1", "quiet",
		// Boot on one CPU waits for several RCU grace periods.
		"rcupdate.rcu_expedited=1",
		"cryptomgr.notests",
		// No interface that nobody has asked for.
		"dummy.numdummies=0",
	}
}

// device adds the back end and the device of the i-th device.
func (l *commandLine) device(i int, d hypervisor.Device) {
	var properties properties
	switch d := d.(type) {
	case *hypervisor.Disk:
		node := coldName("disk", i)
		set := strconv.Itoa(i)
		l.add("-add-fd", "fd="+l.inherit(d.File)+",set="+set)
		l.add("-blockdev", fmt.Sprintf("driver=%s,node-name=%s,filename=/dev/fdset/%s,read-only=%s,locking=%s",
			blockDriver(d), node, set, onOff(d.ReadOnly), blockLocking(d)))
		properties = diskProperties(d, node)
	case *hypervisor.NIC:
		netdev := coldName("net", i)
		if d.Stream != nil {
			l.add("-netdev", "stream,id="+netdev+",server=off,addr.type=fd,addr.str="+l.inherit(d.Stream))
			properties = nicProperties(d, netdev)
			break
		}
		tap := fmt.Sprintf("tap,id=%s,vhost=%s,fds=%s", netdev, onOff(len(d.Vhost) > 0), l.inheritAll(d.Tap))
		if len(d.Vhost) > 0 {
			tap += ",vhostfds=" + l.inheritAll(d.Vhost)
		}
		l.add("-netdev", tap)
		properties = nicProperties(d, netdev)
	case *hypervisor.Share:
		backend := coldName("share", i)
		if d.Socket != nil {
			l.add("-chardev", "socket,id="+backend+",fd="+l.inherit(d.Socket))
		} else {
			l.add("-fsdev", "local,security_model=passthrough,multidevs=remap,id="+backend+
				",path="+quote(d.Directory))
		}
		properties = shareProperties(d, backend)
	case *hypervisor.Vsock:
		if d.Vhost != nil {
			properties = vsockProperties(d, l.inherit(d.Vhost))
			break
		}
		backend := coldName("vsock", i)
		l.add("-chardev", "socket,id="+backend+",fd="+l.inherit(d.Backend))
		properties = vsockProperties(d, backend)
	}
	l.add("-device", properties.keyValues())
}

func coldName(kind string, i int) string { return kind + strconv.Itoa(i) }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
