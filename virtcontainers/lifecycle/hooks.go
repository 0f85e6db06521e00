// Package lifecycle runs a container's hooks at the points of its life at which
// they are due (OCI runtime-spec, "Lifecycle"), for both front ends.
package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/hooks"
	"kata-runtime/virtcontainers/namespace"
)

// Hooks are those of one container that are programs of the host. They
// run in this process's mount namespace, with the bundle as their working
// directory.
type Hooks struct {
	ID string
	// Config is what the config has; nil for none. Version is its ociVersion.
	Config  *specs.Hooks
	Version string
	// Bundle and Rootfs are absolute paths.
	Bundle, Rootfs string
	// PID is the process that stands for the container on the host.
	PID int
	// State encodes the container's state as hooks get it.
	State func(status virtcontainers.Status, pid int) ([]byte, error)
	// Mounts: in the mount namespace of PID, paths are still the host's when hooks
	// are due.
	Mounts bool
	Log    *slog.Logger
}

func (h *Hooks) config() *specs.Hooks {
	if h.Config == nil {
		return &specs.Hooks{}
	}
	return h.Config
}

func (h *Hooks) prestart() []specs.Hook {
	return h.config().Prestart //nolint:staticcheck // deprecated, and in use by every docker before 26
}

// BeforeCreation tells whether there are hooks for Create.
func (h *Hooks) BeforeCreation() bool {
	return len(h.prestart())+len(h.config().CreateRuntime)+len(h.config().CreateContainer) > 0
}

// NeedID tells whether there are hooks that may run only if the container's id
// is the caller's: before the creation, or after its failure.
func (h *Hooks) NeedID() bool { return h.BeforeCreation() || len(h.config().Poststop) > 0 }

// Create runs the hooks that are due before the container enters its root file
// system: first those in this process's namespaces, then those in the namespaces
// of PID, whose host name is given if it has one of its own.
func (h *Hooks) Create(ctx context.Context, hostname string) error {
	if !h.BeforeCreation() {
		return nil
	}
	input, err := h.State(virtcontainers.StatusCreating, h.PID)
	if err != nil {
		return err
	}
	options := hooks.Options{Dir: h.Bundle}
	if err := hooks.Run(ctx, hooks.Prestart, h.prestart(), input, options); err != nil {
		return err
	}
	if err := hooks.Run(ctx, hooks.CreateRuntime, h.config().CreateRuntime, input, options); err != nil {
		return err
	}
	return h.createContainer(ctx, hostname)
}

func (h *Hooks) createContainer(ctx context.Context, hostname string) error {
	if len(h.config().CreateContainer) == 0 {
		return nil
	}
	pid, err := namespace.InnerPID(h.PID)
	if err != nil {
		return err
	}
	input, err := h.State(virtcontainers.StatusCreating, pid)
	if err != nil {
		return err
	}
	return hooks.Run(ctx, hooks.CreateContainer, h.config().CreateContainer, input, hooks.Options{
		Dir:  h.Rootfs, // as runc has it
		Join: func() error { return namespace.Join(h.PID, hostname, h.Mounts) },
	})
}

// Poststart runs the hooks that are due when the program runs. A failure is an
// error since version 1.3.0 of the specification, by which the container's
// config goes, and a warning before.
func (h *Hooks) Poststart(ctx context.Context) error {
	if len(h.config().Poststart) == 0 {
		return nil
	}
	input, err := h.State(virtcontainers.StatusRunning, h.PID)
	if err != nil {
		return err
	}
	options := hooks.Options{Dir: h.Bundle}
	if poststartIsFatal(h.Version) {
		return hooks.Run(ctx, hooks.Poststart, h.config().Poststart, input, options)
	}
	h.warn(hooks.RunAll(ctx, hooks.Poststart, h.config().Poststart, input, options))
	return nil
}

// Poststop runs the hooks that are due when the container is no more.
func (h *Hooks) Poststop(ctx context.Context) {
	if len(h.config().Poststop) == 0 {
		return
	}
	input, err := h.State(virtcontainers.StatusStopped, 0)
	if err != nil {
		h.warn([]error{err})
		return
	}
	options := hooks.Options{Dir: h.Bundle}
	if _, err := os.Stat(options.Dir); err != nil {
		options.Dir = "/" // callers may remove the bundle first
	}
	h.warn(hooks.RunAll(ctx, hooks.Poststop, h.config().Poststop, input, options))
}

func (h *Hooks) warn(failures []error) {
	for _, err := range failures {
		h.Log.Warn(err.Error(), "container", h.ID)
	}
}

// EndsContainer tells whether a failed start is one after which the container
// is to be destroyed: hooks in the guest may have run.
func (h *Hooks) EndsContainer(err error) bool {
	return len(h.config().StartContainer) > 0 && !errors.Is(err, virtcontainers.ErrState) && !errors.Is(err, virtcontainers.ErrNotFound)
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

// OwnHostname is the name that a process which stands for a container gives to its
// own UTS namespace, if it has one; "" otherwise.
func OwnHostname(spec *specs.Spec) string {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.UTSNamespace && ns.Path == "" {
			return spec.Hostname
		}
	}
	return ""
}

// OCIState is a State function for who knows no more of a container than its
// specification.
func (h *Hooks) OCIState(annotations map[string]string) func(virtcontainers.Status, int) ([]byte, error) {
	return func(status virtcontainers.Status, pid int) ([]byte, error) {
		state := specs.State{
			Version: h.Version, ID: h.ID, Status: specs.ContainerState(status), Pid: pid, Bundle: h.Bundle, Annotations: annotations,
		}
		data, err := json.Marshal(state)
		if err != nil {
			return nil, fmt.Errorf("encode the state for hooks: %w", err)
		}
		return data, nil
	}
}
