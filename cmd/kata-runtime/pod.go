package main

import (
	"context"
	"errors"
	"fmt"
	"os"

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
// sandbox first: see oci.GuestOptions. What counts is the namespace, not the
// path, since each caller has its own ways to name one. The user namespaces of
// the pod's containers are the guest's alone and all stand-ins in one of the
// host, so that the stand-ins' means the sandbox's, and so does one that was made
// for it.
func (p *pod) Owner(joined specs.LinuxNamespace) (string, error) {
	wanted, err := os.Stat(joined.Path)
	if err != nil {
		return "", fmt.Errorf("find the %s namespace: %w", joined.Type, err)
	}
	entries, err := p.states.List()
	if err != nil {
		return "", err
	}
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
		for _, path := range []string{namespace.OfProcess(state.StandInPID, joined.Type), usersMadeFor(entry, joined.Type)} {
			theirs, err := os.Stat(path)
			if err == nil && os.SameFile(wanted, theirs) {
				return state.ID, nil
			}
		}
	}
	return "", nil
}

// usersMadeFor is the path of the user namespace that a container's caller made
// before it, "" for none.
func usersMadeFor(entry *store.Entry, kind specs.LinuxNamespaceType) string {
	if kind != specs.UserNamespace {
		return ""
	}
	spec, err := entry.Config()
	if err != nil || spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == kind {
			return ns.Path
		}
	}
	return ""
}

// OnHostNetwork implements bundle.Pod: it tells whether the pod shares the host's network.
func (p *pod) OnHostNetwork() (bool, error) {
	state, err := p.entry.Load()
	if err != nil {
		return false, err
	}
	return namespace.PathIsHost(specs.NetworkNamespace, namespace.OfProcess(state.StandInPID, specs.NetworkNamespace))
}
