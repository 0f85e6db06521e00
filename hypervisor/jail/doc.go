// Package jail confines the processes that a guest could take over: above all the
// VMM, which parses what the guest writes.
//
// A confined process starts as this program once more, under a hidden first
// argument (Command), in namespaces of its own. That step (Become) makes an empty
// root file system that holds only what the process opens by name, gives up
// capabilities, user and limits, and then becomes the process: its id is the one
// that the parent knows. Everything else reaches the process as descriptors.
//
// What follows from that:
//
//   - The process is the first one of its PID namespace. The kernel ends all
//     others in it with it, and does not deliver to it a signal from inside that
//     would merely end it; an abort(3) ends it by the trap that follows.
//   - The ids of its threads, as it sees them, are those of its namespace; see
//     Threads.
//   - The parent-death signal is set last, since the kernel forgets it when a
//     process changes its user.
//   - An error of the step is written to standard error, as that of the process
//     would be, and its exit status is 126.
package jail
