package protocol

import "strings"

// SandboxNamespace is the path, in linux.namespaces of a specification that was
// translated for the guest, of a namespace that the pod's containers share: an
// ipc or uts namespace of the sandbox's own, which outlives its containers.
const SandboxNamespace = "sandbox"

const containerNamespace = "container/"

// ContainerNamespace is the path, in linux.namespaces of a specification that
// was translated for the guest, of a namespace of another container of the pod:
// the one that its first process is in.
func ContainerNamespace(container string) string { return containerNamespace + container }

// NamespaceContainer undoes ContainerNamespace.
func NamespaceContainer(path string) (container string, ok bool) {
	return strings.CutPrefix(path, containerNamespace)
}
