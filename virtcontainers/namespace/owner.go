package namespace

import (
	"fmt"
	"iter"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Member is a container of a pod as the host sees it.
type Member struct {
	ID string
	// PID is that of the process that stands for the container on the host: a
	// stand-in or a namespace holder. More than one may have the same.
	PID int
	// Users is UsersPath of its specification.
	Users string
}

// Owner finds the container that a namespace of the host means, by the process
// that stands for it; "" if it is none of them. The first counts: of a pod's that
// must be the sandbox, since other containers join its namespaces.
//
// What counts is the namespace, not the path, since each caller has its own ways to
// name one. The user namespaces of the pod's containers are the guest's alone and
// the processes on the host all in one of the host, so that this one means the
// sandbox's, and so does one that was made for it.
func Owner(joined specs.LinuxNamespace, members iter.Seq[Member]) (id string, err error) {
	wanted, err := os.Stat(joined.Path)
	if err != nil {
		return "", fmt.Errorf("find the %s namespace: %w", joined.Type, err)
	}
	for member := range members {
		paths := []string{OfProcess(member.PID, joined.Type)}
		if joined.Type == specs.UserNamespace && member.Users != "" {
			paths = append(paths, member.Users)
		}
		for _, path := range paths {
			// Who has ended meanwhile is nobody's.
			if theirs, err := os.Stat(path); err == nil && os.SameFile(wanted, theirs) {
				return member.ID, nil
			}
		}
	}
	return "", nil
}

// UsersPath is the path of the user namespace that a container's caller made
// before it, "" for none.
func UsersPath(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace {
			return ns.Path
		}
	}
	return ""
}
