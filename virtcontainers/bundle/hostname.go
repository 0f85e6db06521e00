package bundle

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// podHostname is what a new pod is called: the name in its first container's
// spec, or else that of the UTS namespace that the spec names. One that is new
// begins as a copy of the caller's, and without any the pod is in that.
func podHostname(spec *specs.Spec, callers string) (name string, err error) {
	path := utsPath(spec)
	switch {
	case spec.Hostname != "":
		return spec.Hostname, nil
	case path == "":
		return callers, nil
	}
	err = osthread.Run(func() error {
		name, err = hostnameIn(path)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("find the pod's host name: %w", err)
	}
	return name, nil
}

func utsPath(spec *specs.Spec) string {
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Type == specs.UTSNamespace {
			return namespace.Path
		}
	}
	return ""
}

// hostnameIn moves the calling thread into a UTS namespace and asks for its
// name.
func hostnameIn(path string) (string, error) {
	namespace, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWUTS); err != nil {
		return "", fmt.Errorf("join the uts namespace %s: %w", path, err)
	}
	return os.Hostname()
}
