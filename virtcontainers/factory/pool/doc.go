// Package pool finds and keeps prepared machines: processes that have booted a VM
// and belong to nobody. It knows neither machines nor pods: a prepared machine is
// a process with a directory, and the first command to connect to the socket there
// has it.
//
//	DIR/counters.json           hits, misses, and what became of machines
//	DIR/mnt                     where each process has its share mounted, in a mount
//	                            namespace of its own
//	DIR/machines/NAME/          of one machine: a lock on it is held by its process
//	    machine.json            what it fits, and what it is about
//	    request.json            what it is to be made from
//	    socket                  once it is ready, until it is taken
//
// A machine's life, with what triggers each arrow:
//
//	Fill ─► waiting ─who made room for it runs, host idle─► booting ─agent answers─► ready ─Take─► taken, a pod's
//	   SIGTERM, its VM ends, Destroy, found stale: from each of the first three ─► gone
//
// Whoever fills the pool forks the process, and hands it the lock on its directory, which
// the kernel releases with the process: a directory without a lock is a leftover,
// whatever it says, after a reboot too. Ready and taken are one process's own
// decisions, so that two commands never have the same machine: it accepts one
// connection at a time, and after it has said yes none.
package pool
