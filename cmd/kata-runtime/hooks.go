package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/hooks"
	"kata-runtime/virtcontainers/standin"
	"kata-runtime/virtcontainers/store"
)

// containerHooks runs the hooks of one container that are programs of the host.
// They run in the command, in its caller's mount namespace, with the bundle as
// their working directory.
type containerHooks struct {
	hooks   *specs.Hooks // never nil
	version string       // the config's ociVersion
	state   store.State  // of the container
	log     *slog.Logger
}

func newContainerHooks(spec *specs.Spec, state store.State, log *slog.Logger) *containerHooks {
	h := &containerHooks{hooks: spec.Hooks, version: spec.Version, state: state, log: log}
	if h.hooks == nil {
		h.hooks = &specs.Hooks{}
	}
	return h
}

// keptHooks are the hooks of a container that an earlier command has created:
// those of the config as it was then.
func keptHooks(entry *store.Entry, state store.State, log *slog.Logger) (*containerHooks, error) {
	spec, err := entry.Config()
	if errors.Is(err, fs.ErrNotExist) {
		spec, err = &specs.Spec{}, nil // its creation did not get that far
	}
	if err != nil {
		return nil, err
	}
	return newContainerHooks(spec, state, log), nil
}

// input is the container's state as hooks get it.
func (h *containerHooks) input(status virtcontainers.Status, pid int) ([]byte, error) {
	state := h.state
	state.Status, state.StandInPID = status, pid
	data, err := json.Marshal(viewOf(state))
	if err != nil {
		return nil, fmt.Errorf("encode the state for hooks: %w", err)
	}
	return data, nil
}

func (h *containerHooks) prestart() []specs.Hook {
	return h.hooks.Prestart //nolint:staticcheck // deprecated, and in use by every docker before 26
}

// beforeCreation tells whether there are hooks for create.
func (h *containerHooks) beforeCreation() bool {
	return len(h.prestart())+len(h.hooks.CreateRuntime)+len(h.hooks.CreateContainer) > 0
}

// needID tells whether there are hooks that may run only if the container's id
// is this command's: before the creation, or after its failure.
func (h *containerHooks) needID() bool { return h.beforeCreation() || len(h.hooks.Poststop) > 0 }

// create runs the hooks that are due before the container enters its root file
// system: first those in this process's namespaces, then those in the
// stand-in's, whose host name is given if it has one of its own.
func (h *containerHooks) create(ctx context.Context, hostname string) error {
	if !h.beforeCreation() {
		return nil
	}
	input, err := h.input(virtcontainers.StatusCreating, h.state.StandInPID)
	if err != nil {
		return err
	}
	// A hook that hangs must not hold up whoever deletes the container.
	ctx, stop, err := whileAlive(ctx, h.state.StandInPID)
	if err != nil {
		return err
	}
	defer stop()
	options := hooks.Options{Dir: h.state.Bundle}
	if err := hooks.Run(ctx, hooks.Prestart, h.prestart(), input, options); err != nil {
		return err
	}
	if err := hooks.Run(ctx, hooks.CreateRuntime, h.hooks.CreateRuntime, input, options); err != nil {
		return err
	}
	return h.createContainer(ctx, hostname)
}

func (h *containerHooks) createContainer(ctx context.Context, hostname string) error {
	if len(h.hooks.CreateContainer) == 0 {
		return nil
	}
	pid, err := standin.InnerPID(h.state.StandInPID)
	if err != nil {
		return err
	}
	input, err := h.input(virtcontainers.StatusCreating, pid)
	if err != nil {
		return err
	}
	return hooks.Run(ctx, hooks.CreateContainer, h.hooks.CreateContainer, input, hooks.Options{
		Dir:  h.state.Rootfs, // as runc has it
		Join: func() error { return standin.Join(h.state.StandInPID, hostname) },
	})
}

// poststart runs the hooks that are due when the program runs. A failure is an
// error since version 1.3.0 of the specification, by which the container's
// config goes, and a warning before.
func (h *containerHooks) poststart(ctx context.Context) error {
	if len(h.hooks.Poststart) == 0 {
		return nil
	}
	input, err := h.input(virtcontainers.StatusRunning, h.state.StandInPID)
	if err != nil {
		return err
	}
	options := hooks.Options{Dir: h.state.Bundle}
	if poststartIsFatal(h.version) {
		return hooks.Run(ctx, hooks.Poststart, h.hooks.Poststart, input, options)
	}
	h.warn(hooks.RunAll(ctx, hooks.Poststart, h.hooks.Poststart, input, options))
	return nil
}

// poststop runs the hooks that are due when the container is no more.
func (h *containerHooks) poststop(ctx context.Context) {
	if len(h.hooks.Poststop) == 0 {
		return
	}
	input, err := h.input(virtcontainers.StatusStopped, 0)
	if err != nil {
		h.warn([]error{err})
		return
	}
	options := hooks.Options{Dir: h.state.Bundle}
	if _, err := os.Stat(options.Dir); err != nil {
		options.Dir = "/" // callers may remove the bundle first
	}
	h.warn(hooks.RunAll(ctx, hooks.Poststop, h.hooks.Poststop, input, options))
}

func (h *containerHooks) warn(failures []error) {
	for _, err := range failures {
		h.log.Warn(err.Error(), "container", h.state.ID)
	}
}

// endsContainer tells whether a failed start is one after which the container
// is to be destroyed: hooks in the guest may have run.
func (h *containerHooks) endsContainer(err error) bool {
	return len(h.hooks.StartContainer) > 0 && !errors.Is(err, virtcontainers.ErrState) && !errors.Is(err, virtcontainers.ErrNotFound)
}

// poststartIsFatal compares a valid ociVersion with 1.3.0.
func poststartIsFatal(version string) bool {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return false
	}
	minor, err := strconv.Atoi(parts[1])
	return err == nil && (parts[0] == "1" && minor >= 3)
}

// ownHostname is the name that a container's stand-in gives to its own UTS
// namespace, if it has one.
func ownHostname(spec *specs.Spec) string {
	for _, namespace := range spec.Linux.Namespaces {
		if namespace.Type == specs.UTSNamespace && namespace.Path == "" {
			return spec.Hostname
		}
	}
	return ""
}
