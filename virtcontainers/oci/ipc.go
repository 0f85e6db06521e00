package oci

import "github.com/opencontainers/runtime-spec/specs-go"

// noteIPC owns no field: it tells of a container that asks for the host's IPC
// namespace, by leaving it out, and gets the pod's. An error, as for the host's
// processes, would break who leaves it out by habit; and most of those who ask
// for it want one IPC namespace for several containers, which is what they get. A
// warning would break who reads standard error, or a log of one line, as conmon
// and podman do.
func noteIPC(t *translation) error {
	present, err := namespaceTypes(t.spec().Linux.Namespaces)
	if err != nil {
		return err
	}
	if !present[specs.IPCNamespace] {
		t.guest.Notes = append(t.guest.Notes, "linux.namespaces: without an ipc namespace the container has its pod's, not the host's")
	}
	return nil
}
