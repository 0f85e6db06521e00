package oci

import "github.com/opencontainers/runtime-spec/specs-go"

// warnOfIPC owns no field: it tells of a container that asks for the host's IPC
// namespace, by leaving it out, and gets the pod's. An error, as for the host's
// processes, would break who leaves it out by habit; and most of those who ask
// for it want one IPC namespace for several containers, which is what they get.
func warnOfIPC(t *translation) error {
	present, err := namespaceTypes(t.spec().Linux.Namespaces)
	if err != nil {
		return err
	}
	if !present[specs.IPCNamespace] {
		t.guest.Warnings = append(t.guest.Warnings,
			"linux.namespaces: without an ipc namespace a container has the host's: in a virtual machine it has its pod's, "+
				"and the host's shared memory, semaphores and message queues are out of reach")
	}
	return nil
}
