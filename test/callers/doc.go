// Package callers holds the tests with real container managers: podman with
// conmon, containerd with its runc shim, and docker's daemon. Each drives the
// built kata-runtime with root directories of its own, in the namespaces of
// [kata-runtime/test/harness]; images are made of busybox, networks are "none".
// They stand behind the build tag vm and need what `make deps build kernel
// image` makes and installs.
package callers
