// Package qmp is a client of the QEMU Machine Protocol: commands with
// deadlines, events, and descriptors that travel beside a command. It knows the
// protocol and no command; hypervisor/qemu knows those.
//
// One goroutine, which Close and the connection's end stop, reads the
// connection and hands each answer to the call that waits for it. Calls may run
// concurrently; QEMU answers them in order.
package qmp
