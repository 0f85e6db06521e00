// Package vhostuser owns the back end's side of the vhost-user protocol: it
// talks with a VMM over a unix socket, maps the guest's memory, and starts and
// stops the virtqueues of a Device as the VMM asks.
//
// The order of a VMM's messages is not relied on. A queue starts once it has a
// size, addresses, memory and a kick descriptor, and is enabled; it stops on
// the request for its base, on being disabled, and at the end of the session.
// Offered are the protocol features MQ, CONFIG, REPLY_ACK and CONFIGURE_MEM_SLOTS;
// neither dirty logging (migration) nor reconnection nor packed queues.
//
// Goroutines: the caller of Server.Serve reads messages; one more per started
// queue waits for the guest's notifications. Serve waits for all of them.
package vhostuser
