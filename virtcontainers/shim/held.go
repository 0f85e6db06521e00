package shim

import (
	"context"
	"sync/atomic"

	"kata-runtime/virtcontainers/holder"
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
	h, err := s.options.StartHolder(ctx, options)
	if err != nil {
		return nil, err
	}
	return &heldBy{Holder: h}, nil
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
