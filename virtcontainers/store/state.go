package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
)

// DefaultRoot is the root when the user gives none.
const DefaultRoot = "/run/kata-runtime"

// Errors for errors.Is, beside virtcontainers.ErrExists for an id that is taken
// and virtcontainers.ErrNotFound for a container that is not there, or not any
// more.
var (
	// ErrVersion: the state was written by a newer runtime.
	ErrVersion = errors.New("state was written by a newer version of the runtime")
	// ErrDamaged: the state file cannot be parsed. Remove still works.
	ErrDamaged = errors.New("state file is damaged")
	// ErrUnsafe: a directory for state is somebody else's.
	ErrUnsafe = errors.New("unsafe directory")
	// ErrInvalidID: the id cannot name a directory.
	ErrInvalidID = errors.New("invalid container ID format")
)

// StateVersion is the version of State that this build writes, and the newest
// that it reads. A change that an older build would misread raises it.
const StateVersion = 1

// State is what is kept of a container.
type State struct {
	// Version is set by Save.
	Version int `json:"version"`
	// OCIVersion is the ociVersion of the container's config.json.
	OCIVersion string `json:"ociVersion"`
	// ID is the container's; Save sets an empty one.
	ID string `json:"id"`
	// Bundle and Rootfs are absolute host paths.
	Bundle string                `json:"bundle"`
	Rootfs string                `json:"rootfs"`
	Status virtcontainers.Status `json:"status"`
	// StandInPID is the host process that stands for the container's init, 0
	// before there is one; StandInStartTime is its start time, see StartTime.
	StandInPID       int    `json:"standInPid"`
	StandInStartTime uint64 `json:"standInStartTime"`
	// Created is when the id was reserved.
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// SandboxID is the id of the pod's VM: that of its first container. Empty
	// while no more than the id is claimed.
	SandboxID string `json:"sandboxId"`
	// SupervisorPID is the process that owns the VM and the id, and its start
	// time.
	SupervisorPID       int    `json:"supervisorPid"`
	SupervisorStartTime uint64 `json:"supervisorStartTime"`
	// Cgroup is the host's control group of the container, recorded before it
	// is made; nil for none.
	Cgroup *cgroup.Record `json:"cgroup,omitempty"`
	// ExitCode is the init's once Status is stopped: 0-255, 128+N for signal N.
	ExitCode int `json:"exitCode"`
	// Reason is why the machine has ended, with which the init did; empty: it has ended
	// by itself, or nobody has lived to tell.
	Reason string `json:"reason,omitempty"`
	// Owner is the name of the user who created the container.
	Owner string `json:"owner"`
	// Deleted says that the container is gone and that its pod, of which it was
	// the first, lives on: the entry keeps the id and the pod's files.
	Deleted bool `json:"deleted,omitempty"`
}

// record is the content of kata.json.
type record struct {
	Incarnation string `json:"incarnation"`
	State
}

// parseRecord reads what it can: of a newer version the version and the
// incarnation alone, with ErrVersion; of a damaged file nothing.
func parseRecord(data []byte) (record, error) {
	var header struct {
		Version     int    `json:"version"`
		Incarnation string `json:"incarnation"`
	}
	if err := json.Unmarshal(data, &header); err != nil {
		return record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if header.Version > StateVersion {
		known := record{Incarnation: header.Incarnation, State: State{Version: header.Version}}
		return known, fmt.Errorf("%w: it has version %d, this runtime knows versions up to %d",
			ErrVersion, header.Version, StateVersion)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{Incarnation: header.Incarnation}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, nil
}
