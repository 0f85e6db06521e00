package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
)

// stateDirFlag names directories of other callers, for commands that look at pods of
// all front ends.
func stateDirFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "state-dir", Usage: "another `DIR` with the state of containers, besides --root's and those of containerd's shims"}
}

// openStores opens the stores of all front ends: that of --root, those of
// containerd's shims, and those that --state-dir names.
func openStores(c *cli.Context) ([]*store.Store, error) {
	var stores []*store.Store
	for _, root := range append([]string{c.String("root")}, c.StringSlice("state-dir")...) {
		s, err := store.Open(root)
		if err != nil {
			return nil, err
		}
		stores = append(stores, s)
	}
	shims, err := store.OpenShims()
	return append(stores, shims...), err
}

// monitoredPod is a pod of whichever front end.
type monitoredPod struct {
	entry *store.Entry // of its first container
	state store.State
}

// listPods finds the pods that there are. One whose state cannot be read is not
// among them: nobody knows whether it is one.
func listPods(stores []*store.Store) ([]monitoredPod, error) {
	var pods []monitoredPod
	for _, s := range stores {
		entries, err := s.List()
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			state, err := entry.Load()
			if err == nil && state.SandboxID == entry.ID() {
				pods = append(pods, monitoredPod{entry, state})
			}
		}
	}
	return pods, nil
}

// findMonitored finds the pod of a container, or by the first letters of its own
// id, as other tools print them.
func findMonitored(stores []*store.Store, id string) (monitoredPod, error) {
	for _, s := range stores {
		entry, err := s.Lookup(id)
		if errors.Is(err, virtcontainers.ErrNotFound) {
			continue
		}
		var state store.State
		if err == nil {
			state, err = entry.Load()
		}
		if err == nil && state.SandboxID != id {
			if state.SandboxID == "" {
				return monitoredPod{}, fmt.Errorf("container %s has no pod yet", id)
			}
			if entry, err = s.Lookup(state.SandboxID); err == nil {
				state, err = entry.Load()
			}
		}
		return monitoredPod{entry, state}, err
	}
	pods, err := listPods(stores)
	if err != nil {
		return monitoredPod{}, err
	}
	var found []monitoredPod
	for _, pod := range pods {
		if id != "" && strings.HasPrefix(pod.entry.ID(), id) {
			found = append(found, pod)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return monitoredPod{}, fmt.Errorf("%w: %s", virtcontainers.ErrNotFound, id)
	default:
		return monitoredPod{}, fmt.Errorf("%d pods have ids that begin with %s", len(found), id)
	}
}
