// Package events tells containerd what becomes of containers, through the events
// service at the address that it gives a shim (TTRPC_ADDRESS).
//
// Publish never waits: it puts an event in a queue, from which one goroutine sends,
// one event at a time, in order. An event that containerd has not answered for is
// sent again on a new connection, so that none is lost while it is restarted; it may
// come twice only when the connection broke between its being taken and answered.
//
// The queue holds up to 16384 events. When containerd stays away for longer than
// that, the least important of them go, the oldest first: those of neither an exit
// nor an OOM kill, then of OOM kills, of which a guest can make any number, and last
// of exits.
//
// An event that containerd refuses as malformed is dropped, as the next try would
// be refused as well.
package events
