// Package qemu is the driver for QEMU: it owns one qemu-system process per VM
// and speaks QMP with it. It needs QEMU 7.2 or later.
//
// The machine has what a container's guest needs and no more: virtio devices
// over PCI Express, a virtio console, a random number generator, and PCI bridges
// and root ports into which devices are plugged later. No firmware setting, no
// configuration file and no default device of QEMU's takes part.
//
// QEMU inherits everything by descriptor: its QMP connection, the guest's
// console, taps, disks and vhost sockets. So it opens no path but the kernel,
// the initrd and its firmware (and a directory that 9p serves), no socket file
// exists that someone else could find, and QEMU's end closes every channel.
//
// Goroutines of a VM: one that waits for the process, one that copies the
// console, the reader of the QMP connection, and os/exec's copier of standard
// error. Wait returns after all four have ended.
package qemu
