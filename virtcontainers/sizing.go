package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/virtcontainers/sizing"
)

// SizingOptions say how the machine follows what its containers ask for.
type SizingOptions struct {
	Policy sizing.Policy
	// Sandbox is what the pod announced for all of its containers together. It
	// is a floor, whatever they ask for.
	Sandbox sizing.Demand
	// Static: the machine keeps the size that it started with.
	Static bool
	// LimitHost is told what the machine has, or is about to get, and what is asked
	// for, when one of the two changes; nil: nobody wants to know. Demand is what it
	// was told before.
	LimitHost func(hypervisor.Size, sizing.Demand) error
	Demand    sizing.Demand
}

// sizer keeps what each container asks for.
type sizer struct {
	options SizingOptions

	mu        sync.Mutex // held while the machine grows
	resources map[string]*specs.LinuxResources
	// everything is what the machine's threads ran on before they were pinned.
	everything *unix.CPUSet
}

// linuxResources picks the resources out of a spec as JSON.
func linuxResources(spec []byte) (*specs.LinuxResources, error) {
	var only struct {
		Linux struct {
			Resources *specs.LinuxResources `json:"resources"`
		} `json:"linux"`
	}
	if len(spec) == 0 {
		return nil, nil //nolint:nilnil // no spec, no limits
	}
	if err := json.Unmarshal(spec, &only); err != nil {
		return nil, fmt.Errorf("decode the spec's resources: %w", err)
	}
	return only.Linux.Resources, nil
}

// growFor lets the machine grow, before a container is to have these resources, and
// notes them. It never shrinks.
func (s *Sandbox) growFor(ctx context.Context, container string, resources *specs.LinuxResources) error {
	s.sizer.mu.Lock()
	defer s.sizer.mu.Unlock()
	previous, had := s.sizer.resources[container]
	s.sizer.resources[container] = resources
	if err := s.grow(ctx); err != nil {
		delete(s.sizer.resources, container)
		if had {
			s.sizer.resources[container] = previous
		}
		return err
	}
	s.pin()
	return nil
}

// SetDemand replaces what the pod has announced for all of its containers together.
// The machine grows with it, and never shrinks; the limits on the host follow.
func (s *Sandbox) SetDemand(ctx context.Context, demand sizing.Demand) error {
	if err := s.Ready(ctx); err != nil {
		return err
	}
	ctx, cancel := s.call(ctx)
	defer cancel()
	s.sizer.mu.Lock()
	defer s.sizer.mu.Unlock()
	previous := s.sizer.options.Sandbox
	s.sizer.options.Sandbox = demand
	if err := s.grow(ctx); err != nil {
		s.sizer.options.Sandbox = previous
		return fmt.Errorf("change the pod's resources: %w", err)
	}
	s.pin() // there may be new vCPUs
	return nil
}

// resourcesOf returns what was noted by growFor.
func (s *Sandbox) resourcesOf(container string) *specs.LinuxResources {
	s.sizer.mu.Lock()
	defer s.sizer.mu.Unlock()
	return s.sizer.resources[container]
}

// forgetSize forgets a container's resources.
func (s *Sandbox) forgetSize(container string) {
	s.sizer.mu.Lock()
	defer s.sizer.mu.Unlock()
	delete(s.sizer.resources, container)
	s.pin()
}

// grow is called with sizer.mu held.
func (s *Sandbox) grow(ctx context.Context) error {
	if s.sizer.options.Static {
		return nil
	}
	var sum sizing.Demand
	for _, resources := range s.sizer.resources {
		sum = sum.Plus(sizing.Of(resources))
	}
	demand := sum.Max(s.sizer.options.Sandbox)
	want, capped := s.sizer.options.Policy.Size(demand)
	if capped {
		s.log.Warn("the containers' limits are more than the machine may have", "vcpus", want.VCPUs, "memory_mib", want.MemoryMiB,
			"wanted_millicpus", demand.MilliCPUs, "wanted_memory_bytes", demand.MemoryBytes)
	}
	now := s.options.Machine.Info().Size
	grows := want.VCPUs > now.VCPUs || want.MemoryMiB > now.MemoryMiB
	previous := s.sizer.options.Demand
	if grows || demand != previous {
		// Before: the VMM needs the memory at once.
		size := hypervisor.Size{VCPUs: max(want.VCPUs, now.VCPUs), MemoryMiB: max(want.MemoryMiB, now.MemoryMiB)}
		if err := s.limitHost(size, demand); err != nil {
			return err
		}
	}
	if !grows {
		return nil
	}
	if err := s.resize(ctx, now, want); err != nil {
		// What was raised for it is not for another use.
		return errors.Join(err, s.limitHost(s.options.Machine.Info().Size, previous))
	}
	return nil
}

// limitHost tells of a size and of what is asked for.
func (s *Sandbox) limitHost(size hypervisor.Size, demand sizing.Demand) error {
	if s.sizer.options.LimitHost != nil {
		if err := s.sizer.options.LimitHost(size, demand); err != nil {
			return err
		}
	}
	s.sizer.options.Demand = demand
	return nil
}

// resize gives the machine, and its guest, more than it has now.
func (s *Sandbox) resize(ctx context.Context, now, want hypervisor.Size) error {
	got, err := s.options.Machine.Resize(ctx, want)
	if errors.Is(err, hypervisor.ErrUnsupported) {
		// A limit is an upper bound: the container can run without.
		s.log.Warn("the machine cannot grow as much as its containers ask for", "error", err)
	} else if err != nil {
		return fmt.Errorf("give the machine %d vCPUs and %d MiB: %w", want.VCPUs, want.MemoryMiB, err)
	}
	if got == now {
		return nil
	}
	s.log.Info("machine has grown", "vcpus", got.VCPUs, "memory_mib", got.MemoryMiB)
	_, err = s.agent.OnlineResources(ctx, &protocol.OnlineResourcesRequest{
		Vcpus: uint32(got.VCPUs), MemoryMib: uint64(got.MemoryMiB),
	})
	if err != nil {
		return fmt.Errorf("bring what was plugged in on line: %w", agentErr(err))
	}
	return nil
}

// pin lets the vCPUs run where the containers' cpusets allow it. A container
// without one does not widen what others have: a pod's sandbox has none. pin is
// called with sizer.mu held; what fails is logged, because nothing depends on
// it.
func (s *Sandbox) pin() {
	var lists []string
	for _, resources := range s.sizer.resources {
		if resources != nil && resources.CPU != nil && resources.CPU.Cpus != "" {
			lists = append(lists, resources.CPU.Cpus)
		}
	}
	if len(lists) == 0 && s.sizer.everything == nil {
		return // never pinned
	}
	if s.sizer.everything == nil {
		s.sizer.everything = &unix.CPUSet{}
		if err := unix.SchedGetaffinity(0, s.sizer.everything); err != nil {
			s.log.Warn("the machine's vCPUs are not pinned", "error", err)
			s.sizer.everything = nil
			return
		}
	}
	slices.Sort(lists)
	set := sizing.Union(lists, *s.sizer.everything)
	machine := s.options.Machine.Info()
	if err := sizing.Pin(machine.PID, machine.VCPUThreads, set); err != nil && s.life.Err() == nil {
		s.log.Warn("the machine's vCPUs are not pinned", "cpusets", lists, "error", err)
	}
}
