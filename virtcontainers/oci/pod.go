package oci

import (
	"cmp"
	"fmt"
)

// podKeys are the annotations by which one kind of caller tells that a
// container belongs to a pod.
type podKeys struct {
	kind, sandboxID    string
	sandbox, container string // values of kind
}

// allPodKeys lists the callers' annotations: containerd's CRI plugin; CRI-O, and
// podman for the containers of its pods; dockershim.
func allPodKeys() []podKeys {
	return []podKeys{
		{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id", "sandbox", "container"},
		{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID", "sandbox", "container"},
		{"io.kubernetes.docker.type", "io.kubernetes.sandbox.id", "podsandbox", "container"},
	}
}

// Pod is what a container is of its pod.
type Pod struct {
	// Sandbox is the id of the container whose VM this one joins; empty: it has
	// a new one.
	Sandbox string
	// Declared tells that the caller calls the container a sandbox. Otherwise
	// one with a new VM may be on its own.
	Declared bool
	// Annotation is what named the sandbox, for messages.
	Annotation string
}

// PodOf decides by the annotations of a container's specification whether it
// starts a pod or joins one. A container is a sandbox when they say so, or when
// they name no other one as its sandbox.
func PodOf(annotations map[string]string, id string) (Pod, error) {
	for _, keys := range allPodKeys() {
		kind, sandbox := annotations[keys.kind], annotations[keys.sandboxID]
		switch {
		case kind == "" && sandbox == "":
			continue // another caller's
		case kind == keys.sandbox:
			return Pod{Declared: true, Annotation: keys.kind}, nil
		case kind != "" && kind != keys.container:
			return Pod{}, fmt.Errorf("annotation %s is %q, not %q or %q", keys.kind, kind, keys.sandbox, keys.container)
		case kind == "" && sandbox == id:
			return Pod{Declared: true, Annotation: keys.sandboxID}, nil
		case sandbox == "":
			return Pod{}, fmt.Errorf("annotation %s is %q, and %s, which has to name the sandbox, is missing",
				keys.kind, kind, keys.sandboxID)
		case sandbox == id:
			return Pod{}, fmt.Errorf("annotation %s is %q, and %s names the container itself", keys.kind, kind, keys.sandboxID)
		}
		if err := ValidateID(sandbox); err != nil {
			return Pod{}, fmt.Errorf("annotation %s: %w", keys.sandboxID, err)
		}
		return Pod{Sandbox: sandbox, Annotation: keys.sandboxID}, nil
	}
	return Pod{}, nil
}

// Annotations by which containerd's CRI plugin names a pod as Kubernetes does.
const (
	podNameAnnotation      = "io.kubernetes.cri.sandbox-name"
	podNamespaceAnnotation = "io.kubernetes.cri.sandbox-namespace"
)

// PodName is what Kubernetes calls a container's pod, by the annotations of
// containerd or of CRI-O; empty for another caller's.
func PodName(annotations map[string]string) (namespace, name string) {
	return cmp.Or(annotations[podNamespaceAnnotation], annotations["io.kubernetes.pod.namespace"]),
		cmp.Or(annotations[podNameAnnotation], annotations["io.kubernetes.pod.name"])
}

// NamePod adds the annotations that PodName reads.
func NamePod(annotations map[string]string, namespace, name string) {
	annotations[podNamespaceAnnotation], annotations[podNameAnnotation] = namespace, name
}
