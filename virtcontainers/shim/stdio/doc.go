// Package stdio joins the standard streams of a process in the guest with what
// containerd names for them: the paths of fifos or files, file:// and binary://
// URIs, or nothing.
//
//	fifo, or file  ── input ──► stdin, a connection to the guest
//	fifo, file, or a
//	logging program ◄─ output ── stdout, stderr
//
// Open opens what is named before the guest is asked for anything, and waits for
// nobody but a logging program: a fifo is opened in both directions, so that
// neither end has to be there, and a containerd that is restarted neither ends the
// process's input nor breaks its output. What the process writes meanwhile waits in
// the fifo and in the guest.
//
//	opened ──Begin──► copying ──Close──► draining ──► closed
//	   └───Close──────────────────────────────────────►
//
// Draining ends with the output. It is bounded on both sides: a guest that keeps a
// stream open is waited for ten seconds in all, and may send 64 MiB, since what the
// process has written is there when its exit is told of; and a reader that takes
// nothing for ten seconds loses the rest. A reader that takes its time may. Abandon
// ends the waiting at once.
//
// A fifo that nobody has open holds nobody up: what it has room for stays there for a
// reader, such as a containerd that is restarted, until Release, which comes with the
// deletion of the process. runc's shim does the same.
//
// Goroutines: one per stream, two while output waits for a reader, one per logging
// program. Close waits for all but those of fifos that nobody has open, and Release
// for all.
package stdio
