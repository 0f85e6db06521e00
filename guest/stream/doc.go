// Package stream carries the standard streams of containers' processes between
// the host's connections and the processes' pipes or terminals.
//
// A Registry accepts the connections and parks them until the process that
// they belong to is made. An Output copies what a process writes, an Input what
// it reads.
//
// When a process has exited, Output.Finish takes what it left in its pipe into
// memory, which needs nobody's help and so never blocks: neither a process that
// stays in the background with the write end open, nor a host that does not
// read, can hold up the report of an exit. What was taken is delivered as fast
// as the host reads it, and then the connection is closed.
package stream
