// Package supervisor owns the long-lived host process of a pod: what it serves
// to the commands and to the stand-ins, and how the commands reach it.
//
// A command that makes a pod launches the supervisor (Launch) and hands it one
// end of a channel; a later command connects to the sockets in the pod's state
// directory (Connect). Calls go by ttrpc (package api), descriptors by channels:
//
//	command  ── ttrpc ────────────────────► supervisor.sock
//	command  ── channel: files, stand-ins ─► inherited, or channel.sock
//	stand-in ── channel: signals, sizes ──► given by the command that forked it
//	         ◄─ streams, exit code ───────
//
// The channel of the command that creates a container is also its lease: when
// it ends before the command has committed, the container goes again, and with
// the last container the pod. That is how a command that is killed half-way, or
// an attached one at any time, leaves nothing behind.
//
// The supervisor alone writes and removes the state directories of its
// containers. It ends when its last container is deleted.
//
// Goroutines: serve (ttrpc), accept (channel.sock), one per channel, one per
// stand-in and up to three for its streams, one per container that waits for
// its exit. Run waits for all of them.
package supervisor
