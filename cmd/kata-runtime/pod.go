package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

// pod is the pod of another container, whose VM runs.
type pod struct {
	id         string // of its sandbox container
	entry      *store.Entry
	states     *store.Store
	supervisor process
}

// findPod finds the pod that a container is to join.
func findPod(root string, membership oci.Pod) (*pod, error) {
	fail := func(err error) error {
		return fmt.Errorf("join the pod of sandbox %q, as annotation %s says: %w", membership.Sandbox, membership.Annotation, err)
	}
	states, err := store.Open(root)
	if err != nil {
		return nil, fail(err)
	}
	entry, err := states.Lookup(membership.Sandbox)
	if err != nil {
		return nil, fail(err)
	}
	state, err := currentState(entry)
	switch {
	case err != nil:
		return nil, fail(err)
	case state.SandboxID != state.ID:
		return nil, fail(fmt.Errorf("it is no sandbox but a container of %q", state.SandboxID))
	case !store.Alive(state.SupervisorPID, state.SupervisorStartTime):
		return nil, fail(errors.New("its virtual machine has ended"))
	case state.Status == virtcontainers.StatusStopped: // its namespaces went with its stand-in
		return nil, fail(virtcontainers.ErrNotRunning)
	}
	return &pod{
		id: state.ID, entry: entry, states: states,
		supervisor: process{pid: state.SupervisorPID, start: state.SupervisorStartTime},
	}, nil
}

// ID implements bundle.Pod.
func (p *pod) ID() string { return p.id }

// connect reaches the pod's supervisor for the creation of a container.
func (p *pod) connect(ctx context.Context) (*supervisor.Client, error) {
	client, err := supervisor.Connect(ctx, p.entry)
	if err != nil {
		return nil, fmt.Errorf("join the pod of sandbox %q: %w", p.id, err)
	}
	if err := client.OpenChannel(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("join the pod of sandbox %q: %w", p.id, err)
	}
	return client, nil
}

// Owner implements bundle.Pod: it finds the container of the pod whose stand-in is in a namespace, the
// sandbox first: see oci.GuestOptions.
func (p *pod) Owner(joined specs.LinuxNamespace) (string, error) {
	entries, err := p.states.List()
	if err != nil {
		return "", err
	}
	return namespace.Owner(joined, func(yield func(namespace.Member) bool) {
		for _, entry := range append([]*store.Entry{p.entry}, entries...) {
			state, err := currentState(entry)
			if err != nil || state.SandboxID != p.id || !store.Alive(state.StandInPID, state.StandInStartTime) {
				continue // removed meanwhile, or of no interest
			}
			switch state.Status {
			case virtcontainers.StatusCreated, virtcontainers.StatusRunning, virtcontainers.StatusPaused:
			default:
				continue
			}
			member := namespace.Member{ID: state.ID, PID: state.StandInPID}
			if joined.Type == specs.UserNamespace {
				member.Users = usersMadeFor(entry)
			}
			if !yield(member) {
				return
			}
		}
	})
}

// usersMadeFor is the path of the user namespace that a container's caller made
// before it, "" for none.
func usersMadeFor(entry *store.Entry) string {
	spec, err := entry.Config()
	if err != nil {
		return ""
	}
	return namespace.UsersPath(spec)
}

// OnHostNetwork implements bundle.Pod: it tells whether the pod shares the host's network.
func (p *pod) OnHostNetwork() (bool, error) {
	state, err := p.entry.Load()
	if err != nil {
		return false, err
	}
	return namespace.PathIsHost(specs.NetworkNamespace, namespace.OfProcess(state.StandInPID, specs.NetworkNamespace))
}
