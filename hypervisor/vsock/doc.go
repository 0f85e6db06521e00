// Package vsock owns the host's end of a guest's vsock device: one Host per
// guest, with Dial to the guest's ports and Listen for connections of that guest
// alone. Prefer it to using AF_VSOCK sockets directly: it also works on hosts
// without the kernel's vhost-vsock.
//
// There are two kinds. "vhost" is the kernel's vhost-vsock. "user" is a
// vhost-user device that a process of its own serves (Serve), which can be confined:
// it reads the guest's memory. Packages device (packets and connections), vhostuser
// (the protocol with the VMM), virtqueue and guestmem make it up; package control owns
// what that process and the Host say to each other. A connection is a socket pair, of
// which each has an end. The guest cannot tell the kinds apart: it uses AF_VSOCK.
//
// Ports of the host: with vhost-vsock they are shared by all guests and all
// programs of the host, so that a fixed port can be had once. Listen therefore
// takes a logical port, and the listener's address tells the number that the
// guest has to dial for it. The caller passes that number on to the guest.
package vsock
