// Package modules loads modules of the guest's kernel when that asks for them.
//
// The kernel asks (request_module) when a container mounts a file system, adds a
// link, opens a socket, or sets a rule that none of its code knows: it starts a
// helper as a process of its own and waits for it. The helper is this program, which
// hands the name over to the agent (helper.c): the agent finds the module and those
// that it needs in a directory that the host shows, read-only. Nothing of that
// directory is looked at before the first request.
//
// Whoever runs in the pod may cause a request. So the kernel bounds how many there
// are at once; names that nothing is known by cost a look into a table; and the
// configuration names modules that are never loaded.
//
// What is loaded is what the image names: it holds the digest of a list of digests,
// which is beside the modules. The agent reads a file, compares it, and loads what it
// has read. Containers cannot load a module themselves: see Supported. A kernel that
// checks signatures, and has only met good ones, is told to refuse others for good.
package modules
