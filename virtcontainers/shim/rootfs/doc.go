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
// A file system that has come in an image, on a disk or in a file, is not for the
// host's kernel to mount: AsDisks finds such lists, for the guest to put together.
// The rest, and the file systems that the guest's kernel does not have, are mounted
// here, as runc's shim does.
package rootfs
