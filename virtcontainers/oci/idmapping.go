package oci

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// IDMapping says whom the files of an id-mapped mount belong to: to HostID those
// that belong to ContainerID in its source.
type IDMapping struct {
	UIDs, GIDs []specs.LinuxIDMapping
	// Recursive: the mounts below it are mapped too.
	Recursive bool
}

// idMapping takes the mapping out of a mount, nil for none: it is the host's
// part, where the file server finds the owners as the mapping shows them.
func (t *translation) idMapping(m *specs.Mount) (*IDMapping, error) {
	mapping := &IDMapping{UIDs: m.UIDMappings, GIDs: m.GIDMappings, Recursive: hasOption(m, "ridmap")}
	asked := mapping.Recursive || hasOption(m, "idmap")
	m.UIDMappings, m.GIDMappings = nil, nil
	m.Options = slices.DeleteFunc(m.Options, func(option string) bool { return option == "idmap" || option == "ridmap" })
	if len(mapping.UIDs)+len(mapping.GIDs) == 0 {
		if !asked {
			return nil, nil //nolint:nilnil // no mapping
		}
		// The specification: that of the container's user namespace.
		mapping.UIDs, mapping.GIDs = t.spec().Linux.UIDMappings, t.spec().Linux.GIDMappings
	}
	if len(mapping.UIDs) == 0 || len(mapping.GIDs) == 0 {
		return nil, errors.New("uidMappings, gidMappings: an id-mapped mount needs both, or the container a user namespace that has both")
	}
	return mapping, nil
}

// mapID returns the owner that an id-mapped mount shows.
func mapID(mappings []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID
		}
	}
	return id
}
