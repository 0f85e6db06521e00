// Package standin owns the stand-in: the host process that callers of the OCI
// command line take for the container's, or for an exec's, own. Its pid is in
// the pid file and its exit code is the container's.
//
// A command forks it (Start) into the namespaces that the spec asks for, as a
// session leader, with the caller's standard streams or a pty's slave, and
// exits; the stand-in then belongs to the caller's subreaper. It is connected
// to the pod's supervisor by a channel, over which it
//
//   - is told when the container's root file system is complete, and enters it:
//     a mount namespace of its own, pivoted onto a clone of the root file system
//     with its binds and a fresh procfs, so that whoever follows
//     /proc/PID/ns/mnt or /proc/PID/root finds the container and never the host;
//   - receives the container's streams and copies between them and the caller's;
//   - reports the signals that it gets, and the size of its terminal; those of an
//     exec of which there is no process yet end it instead;
//   - learns the exit code, drains the output, and exits with the code.
//
// When the channel ends early, the supervisor is gone, and the machine with it:
// the stand-in exits as if it had been killed.
//
// Its goroutines are never waited for: the copies block in system calls on
// descriptors of the caller, which must not be made non-blocking because they
// are shared, and end with the process.
package standin
