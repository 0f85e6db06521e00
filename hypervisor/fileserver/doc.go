// Package fileserver is a virtio-fs file server of our own: a vhost-user device
// that passes FUSE requests of a guest to a file system of the host.
//
// The guest is not trusted. A request is copied out of guest memory before it is
// looked at, in lengths that are checked and bounded; only the data of reads and
// writes stays there, and goes between the guest's buffers and the host's file by
// one system call, which fails where memory has gone. What the guest's driver
// breaks ends the server, and so that machine.
//
// A queue has one leader among its workers: the one that takes requests, carries
// them out itself, and waits for further ones. So a request after the other costs
// no change of threads. The leader lets another worker lead before it does what
// may take time, and a watchdog does so for one that is stuck all the same. A
// request that waits for another process, for a lock, holds no guest memory
// meanwhile.
package fileserver
