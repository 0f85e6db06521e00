// Package hooks runs the hooks of the OCI runtime-spec that are programs of the
// host: every kind but startContainer, which the agent runs in the container.
//
// A hook gets the container's state on its standard input, the arguments and
// the environment of the config and nothing else of this process but its
// working directory and namespaces. Its standard output is dropped; the end of
// its standard error is kept for the error. A hook that runs past its timeout,
// or whose runtime dies, is killed together with its process group. What a hook
// leaves running on purpose, in a process group of its own, is left alone, and
// nobody waits for it.
package hooks
