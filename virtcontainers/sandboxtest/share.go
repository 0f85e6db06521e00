package sandboxtest

import (
	"errors"
	"slices"
	"sync"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/share"
)

var _ virtcontainers.Share = (*Share)(nil)

// Share knows which containers are shared, and shares nothing.
type Share struct {
	mu         sync.Mutex // guards what follows
	containers map[string]bool
	detached   []string
	closed     bool
}

// Closed tells whether the sandbox has released it.
func (s *Share) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Containers returns how many containers are shared.
func (s *Share) Containers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// Detached returns what was detached, as CONTAINER/NAME.
func (s *Share) Detached() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.detached)
}

// Add implements virtcontainers.Share.
func (s *Share) Add(container string, mounts []share.Mount) error {
	for _, mount := range mounts {
		mount.Tree.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[container] = true
	return nil
}

// Detach implements virtcontainers.Share.
func (s *Share) Detach(container, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.containers[container] {
		return errors.New("detached before it was shared, or after")
	}
	s.detached = append(s.detached, container+"/"+name)
	return nil
}

// Remove implements virtcontainers.Share.
func (s *Share) Remove(container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, container)
	return nil
}

// Close implements virtcontainers.Share.
func (s *Share) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
