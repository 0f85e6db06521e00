// Package cri holds the tests of Kubernetes' path: the CRI plugins of containerd 1 and 2, and
// CRI-O, with a handler named kata, driven by kubelet's calls, with pods on a bridge that
// CNI plugins make. Each test has a manager of its own with an image of its
// own, in the namespaces of [kata-runtime/test/harness]. With containerd what is checked of a
// pod of this runtime is checked of a pod of runc too, so that a failure tells
// whose it is. The tests stand behind the build tag vm and need what `make
// deps-test build kernel image containerd crio critest` makes and installs.
package cri
