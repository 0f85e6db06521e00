// Package harness runs the built kata-runtime the way a caller does, and checks
// afterwards that nothing is left of it.
//
// [Main] gives a test program its own PID, mount, network and cgroup namespaces, with
// an empty /run: whatever the runtime leaves is then visible, nothing of
// anybody else's is, and all of it ends with the test program. [New] gives one
// test its state directory and a list of what there was, and compares at the
// test's end. Waiting is for events (a process's end, a line, a file), with
// [Patience] as the bound of everything.
package harness
