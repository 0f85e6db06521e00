package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"kata-runtime/hypervisor/virtio/guestmem"
)

// setMemTable replaces all of the guest's memory.
func (s *Server) setMemTable(m *message) error {
	regions, err := decodeMemTable(m.payload, len(m.fds))
	if err != nil {
		return err
	}
	maps := make([]*guestmem.Mapping, 0, len(regions))
	for i, r := range regions {
		mapped, err := mapFD(m.fds[i], r)
		m.fds[i] = noFD
		if err != nil {
			return errors.Join(err, unmapAll(maps))
		}
		maps = append(maps, mapped)
	}
	return s.replaceMemory(maps)
}

// mapFD maps a region and closes fd, which the mapping does not need.
func mapFD(fd int, r guestmem.Region) (*guestmem.Mapping, error) {
	file := os.NewFile(uintptr(fd), "guest memory")
	defer func() { _ = file.Close() }()
	return guestmem.Map(file, r)
}

func (s *Server) addMemReg(m *message) error {
	region, err := decodeMemReg(m.payload)
	if err != nil {
		return err
	}
	if len(s.maps) >= memSlots {
		return fmt.Errorf("more than %d memory regions", memSlots)
	}
	fd, err := m.takeFD()
	if err != nil {
		return err
	}
	mapped, err := mapFD(fd, region)
	if err != nil {
		return err
	}
	return s.replaceMemory(append(slices.Clone(s.maps), mapped))
}

// remMemReg removes a region. VMMs differ in whether they send its descriptor
// along, which says nothing new.
func (s *Server) remMemReg(m *message) error {
	region, err := decodeMemReg(m.payload)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(s.maps, func(have *guestmem.Mapping) bool {
		return have.GuestAddress == region.GuestAddress && have.Size == region.Size && have.UserAddress == region.UserAddress
	})
	if i < 0 {
		return fmt.Errorf("no memory region at %#x of %d bytes", region.GuestAddress, region.Size)
	}
	return s.replaceMemory(slices.Delete(slices.Clone(s.maps), i, i+1))
}

// replaceMemory moves every queue to the given regions and unmaps those that
// are no longer among them. It takes over maps. Queues whose rings are not in
// the new memory are stopped.
func (s *Server) replaceMemory(maps []*guestmem.Mapping) error {
	table, err := guestmem.NewTable(maps)
	if err != nil {
		return errors.Join(err, unmapAll(missing(maps, s.maps)))
	}
	gone := missing(s.maps, maps)
	s.memory, s.maps = table, maps
	for _, v := range s.vrings {
		if v.ring == nil {
			continue
		}
		if moved := s.rebind(v); moved != nil {
			err = errors.Join(err, moved)
			s.stop(v)
		}
	}
	return errors.Join(err, unmapAll(gone))
}

// rebind moves a running queue to the present memory.
func (s *Server) rebind(v *vring) error {
	cfg, err := v.queueConfig(s.memory, s.features)
	if err != nil {
		return err
	}
	s.device.Quiesce(func() { err = v.ring.Rebind(s.memory, cfg) })
	if err != nil {
		return fmt.Errorf("queue %d: %w", v.index, err)
	}
	return nil
}

// missing returns the mappings of a that are not in b.
func missing(a, b []*guestmem.Mapping) []*guestmem.Mapping {
	return slices.DeleteFunc(slices.Clone(a), func(m *guestmem.Mapping) bool { return slices.Contains(b, m) })
}

func unmapAll(maps []*guestmem.Mapping) error {
	var err error
	for _, m := range maps {
		err = errors.Join(err, m.Unmap())
	}
	return err
}
