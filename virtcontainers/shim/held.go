package shim

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/namespace"
)

// heldBy is a namespace holder of this shim's. What it stands for does not outlive
// it: its pid is all that the host knows of a container, and who kills that means
// the container. Without it neither a container nor a namespace of the pod's would
// be found.
type heldBy struct {
	Holder

	stopped atomic.Bool // by the shim
}

func (s *service) startHolder(ctx context.Context, options holder.Options) (*heldBy, error) {
	var opened []*os.File
	defer func() {
		for _, file := range opened {
			file.Close()
		}
	}()
	options.Namespaces = slices.Clone(options.Namespaces)
	err := s.seeingHost(func() error {
		for i, n := range options.Namespaces {
			if n.Path == "" || !namespace.ForProcess(n.Type) {
				continue
			}
			file, err := namespace.Open(n.Type, n.Path)
			if err != nil {
				return fmt.Errorf("start a namespace holder: %w", err)
			}
			opened = append(opened, file)
			options.Namespaces[i].Path = fmt.Sprintf("/proc/self/fd/%d", file.Fd())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	h, err := s.options.StartHolder(ctx, options)
	if err != nil {
		return nil, err
	}
	return &heldBy{Holder: h}, nil
}

// seeingHost calls f where paths mean what they mean for containerd, which may have
// mounted what they lead to after this process began. f starts nothing.
func (s *service) seeingHost(f func() error) error {
	if s.options.HostMounts == nil {
		return f()
	}
	return namespace.WithMounts(s.options.HostMounts, f)
}

// Stop ends the holder, and waits for it.
func (h *heldBy) Stop() {
	h.stopped.Store(true)
	h.Holder.Stop()
}

// follow calls end when the holder has ended and nobody has stopped it.
func (s *service) follow(h *heldBy, id string, end func() error) {
	s.background.Go(func() {
		<-h.Done()
		if h.stopped.Load() {
			return
		}
		log := s.options.Log.With("container", id)
		log.Error("the process that stands for a container on the host was killed: the container ends", "pid", h.PID())
		if err := end(); err != nil {
			log.Error("end a container whose process on the host was killed", "error", err)
		}
	})
}
