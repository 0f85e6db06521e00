// Package hooks runs the hooks of the OCI runtime-spec that are programs of the
// host: every kind but startContainer, which the agent runs in the container.
//
// A hook gets the container's state on its standard input, the arguments and
// the environment of the config and nothing else of this process but its
// working directory and namespaces; as with runc, one for which the config gives no
// environment has this process's, unless it joins the container's namespaces. Its standard output is dropped; the end of
// its standard error is kept for the error. A hook that runs past its timeout,
// is killed together with its process group; one whose runtime dies, with it.
// What a hook leaves running when it ends well is left alone, and nobody waits
// for it.
package hooks
