// Package rootfs mounts the root file system that a Create request of containerd
// names: a list of mounts, as a snapshotter gives it.
//
// The list is put together in a mount namespace that ends with the work, and
// leaves it as one detached tree. So what fails half way leaves nothing, helpers
// such as id-mapped layers show nowhere, and attaching the result, or letting go
// of it, is one system call. Attached, it is only in the mount namespace of the
// process that calls Mount; a shim's is its own and gets mounts from the host
// without giving any back.
//
// A file system on a disk or in an image file is mounted by the host's kernel,
// as runc's shim has it; AsDisk finds those that a machine could have as a disk
// instead.
package rootfs
