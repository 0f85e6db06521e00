// Package virtiofsd runs the daemon that serves a directory of the host to a
// guest over virtio-fs. There are two: the C one, which came with QEMU up to
// 7.2 (Debian 12), and the Rust one, which replaced it. They take different
// options and are otherwise alike.
//
// The daemon never has a socket that someone else could find: it inherits a
// listening one to which this package is connected already and whose path is
// gone. So Start waits for nothing, and a VMM can use the connection before the
// daemon has come up.
package virtiofsd
