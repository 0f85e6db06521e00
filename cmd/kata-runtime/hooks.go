package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/lifecycle"
	"kata-runtime/virtcontainers/store"
)

// newHooks are the hooks of a container, which run in the command, in its
// caller's mount namespace.
func newHooks(spec *specs.Spec, state store.State, log *slog.Logger) *lifecycle.Hooks {
	return &lifecycle.Hooks{
		ID: state.ID, Config: spec.Hooks, Version: spec.Version, Bundle: state.Bundle, Rootfs: state.Rootfs,
		PID: state.StandInPID, Mounts: true, Log: log,
		State: func(status virtcontainers.Status, pid int) ([]byte, error) {
			state := state
			state.Status, state.StandInPID = status, pid
			data, err := json.Marshal(viewOf(state))
			if err != nil {
				return nil, fmt.Errorf("encode the state for hooks: %w", err)
			}
			return data, nil
		},
	}
}

// keptHooks are the hooks of a container that an earlier command has created:
// those of the config as it was then.
func keptHooks(entry *store.Entry, state store.State, log *slog.Logger) (*lifecycle.Hooks, error) {
	spec, err := entry.Config()
	if errors.Is(err, fs.ErrNotExist) {
		spec, err = &specs.Spec{}, nil // its creation did not get that far
	}
	if err != nil {
		return nil, err
	}
	return newHooks(spec, state, log), nil
}

// createHooks runs the hooks that are due before the container enters its root
// file system. One that hangs must not hold up whoever deletes the container.
func createHooks(ctx context.Context, h *lifecycle.Hooks, spec *specs.Spec) error {
	if !h.BeforeCreation() {
		return nil
	}
	ctx, stop, err := whileAlive(ctx, h.PID)
	if err != nil {
		return err
	}
	defer stop()
	return h.Create(ctx, lifecycle.OwnHostname(spec))
}
