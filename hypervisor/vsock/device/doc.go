// Package device owns the vsock device itself (VIRTIO 1.2, section 5.10): the
// host's end of every stream connection of one guest, as net.Conn, on top of
// the two virtqueues that package vhostuser starts and stops.
//
// Directions are named from the host: the sender fills the guest's receive
// queue (0), the receiver empties its transmit queue (1).
//
// Locks, in the order in which they may nest: receiver.mu, then one of
// Device.mu, Conn.mu and sender.mu. The last three never nest.
//
// Goroutines: the device has none. The sender runs on whichever goroutine has
// something to send (writers, readers that return credit, the receiver) or
// brings buffers (the notifications of queue 0); the receiver runs on the
// notifications of queue 1 and never waits: what it has to answer is queued for
// the sender. So a VM that is paused, or a guest that hands out no receive
// buffers, blocks writers and nobody else.
//
// What a guest can make the host hold is bounded: receive windows are granted
// out of one budget per device, replies that belong to no connection are
// dropped beyond a limit, a packet that exceeds its window resets the
// connection, and a malformed ring ends the device with an error (Device.Err).
package device
