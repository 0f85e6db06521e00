package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// errGone says that another call deletes the container already.
var errGone = virtcontainers.ErrNotFound

// Hello implements api.SupervisorService.
func (s *server) Hello(_ context.Context, request *api.HelloRequest) (*api.HelloResponse, error) {
	version := min(request.GetNewest(), newestVersion)
	if version < max(request.GetOldest(), oldestVersion) {
		return nil, status.Errorf(codes.FailedPrecondition,
			"this pod's supervisor speaks versions %d to %d of the private protocol, the command %d to %d: use the kata-runtime that started the pod",
			oldestVersion, newestVersion, request.GetOldest(), request.GetNewest())
	}
	return &api.HelloResponse{Version: version}, nil
}

// CreateContainer implements api.SupervisorService.
func (s *server) CreateContainer(ctx context.Context, request *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	c, err := s.create(ctx, request)
	if err != nil {
		return nil, asStatus(err)
	}
	info, guest := s.sandbox.Machine(), s.sandbox.Guest()
	s.log.Info("container created", "container", c.id)
	return &api.CreateContainerResponse{
		Timings: timings(s.sandbox),
		Machine: &api.Machine{
			Driver: info.Driver, Version: info.Version, Accelerator: info.Accelerator, Vsock: s.vsock,
			GuestKernel: guest.GetKernelRelease(), AgentRssBytes: guest.GetAgentRssBytes(), VmmPid: int32(info.PID),
		},
		SupervisorPid: int32(syscall.Getpid()),
	}, nil
}

func (s *server) create(ctx context.Context, request *api.CreateContainerRequest) (_ *container, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c, err := s.beginCreation(ctx, request, cancel)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo(ctx, c))
		}
	}()
	files, err := s.claimFiles(c.owner, len(request.GetMounts()))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, file := range files {
				file.Close() // the share may have done so
			}
		}
	}()
	conf, err := keepResolvConf(request, files)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	c.resolvConf = conf // forget closes it
	s.mu.Unlock()
	if err := s.joinNetwork(c); err != nil {
		return nil, err
	}
	mounts := make([]share.Mount, len(files))
	for i, m := range request.GetMounts() {
		mounts[i] = share.Mount{Name: m.GetName(), Tree: files[i], Temporary: m.GetTemporary(), Attributes: share.Attributes{
			ReadOnly: m.GetReadOnly(), RecursiveReadOnly: m.GetRecursiveReadOnly(), Follow: m.GetFollow(),
		}}
	}
	core, err := s.sandbox.CreateContainer(ctx, virtcontainers.ContainerOptions{
		ID: c.id, Spec: request.GetSpecJson(), State: c.hookState,
		ShareName: request.GetShareName(), Mounts: mounts,
		IO:       virtcontainers.IO{Stdin: request.GetStdin(), Stdout: request.GetStdout(), Stderr: request.GetStderr()},
		Storages: storages(request),
		Devices:  blocks(request.GetBlockDevices()),
	})
	if err != nil {
		return nil, err
	}
	return c, s.adopt(ctx, c, core)
}

// storages are the file systems that the guest is to mount.
func storages(request *api.CreateContainerRequest) []*protocol.Storage {
	var list []*protocol.Storage
	for _, volume := range request.GetMemoryVolumes() {
		list = append(list, &protocol.Storage{
			Driver: "tmpfs", MountPoint: volume.GetMountPoint(), Options: volume.GetOptions(),
			Shared: true, Keep: volume.GetKeep(), CopyFrom: volume.GetCopyFrom(),
		})
	}
	for _, directory := range request.GetMemoryDirectories() {
		list = append(list, &protocol.Storage{
			Driver: "directory", Source: directory.GetVolume(), Path: directory.GetPath(), MountPoint: directory.GetMountPoint(),
		})
	}
	return list
}

// stateForHooks is what hooks in the guest are told of a container; its pid and
// its status there are the guest's to know.
func stateForHooks(state store.State) ([]byte, error) {
	data, err := json.Marshal(specs.State{
		Version: state.OCIVersion, ID: state.ID, Bundle: state.Bundle, Annotations: state.Annotations,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the state for hooks: %w", err)
	}
	return data, nil
}

// adopt connects the stand-in to the created container and begins to watch for
// the container's exit.
func (s *server) adopt(ctx context.Context, c *container, core *virtcontainers.Container) error {
	kill := func(ctx context.Context) error { return s.killForSure(ctx, core) }
	c.standIn = newStandIn(c.channel, core.Init(), kill, s.log.With("container", c.id))
	err := c.standIn.begin(ctx)
	if err == nil {
		err = s.setStatus(c, virtcontainers.StatusCreated)
	}
	if err == nil {
		err = s.publish(ctx, c, core)
	}
	if err != nil {
		ctx = context.WithoutCancel(ctx)
		if killErr := kill(ctx); killErr == nil {
			err = errors.Join(err, core.Delete(ctx))
		} else {
			err = errors.Join(err, killErr)
		}
		c.standIn.close(virtcontainers.Exit{Code: 128 + uint8(syscall.SIGKILL)})
		return &virtcontainers.StageError{Stage: virtcontainers.StageCreateContainer, Err: err}
	}
	s.background.Go(func() { s.watchExit(c) })
	return nil
}

// errCommandGone says that the command that asked for something cannot take it.
var errCommandGone = errors.New("the command has gone away")

// publish makes the container reachable by other calls, unless the command
// that asked for it is gone.
func (s *server) publish(ctx context.Context, c *container, core *virtcontainers.Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, connected := s.channels[c.owner.token]; !connected && !c.owner.committed {
		return errCommandGone
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.core = core
	return nil
}

// StartContainer implements api.SupervisorService.
func (s *server) StartContainer(ctx context.Context, request *api.ContainerRequest) (*api.StartContainerResponse, error) {
	c, err := s.lookup(request.GetContainerId())
	if err != nil {
		return nil, asStatus(err)
	}
	if err := s.refreshServices(); err != nil {
		return nil, asStatus(err)
	}
	if err := c.core.Start(ctx); err != nil {
		return nil, asStatus(err)
	}
	if err := s.setStatus(c, virtcontainers.StatusRunning); err != nil {
		return nil, asStatus(err)
	}
	return &api.StartContainerResponse{Timings: timings(s.sandbox)}, nil
}

// KillContainer implements api.SupervisorService.
func (s *server) KillContainer(ctx context.Context, request *api.KillContainerRequest) (*api.Empty, error) {
	c, err := s.lookup(request.GetContainerId())
	if err == nil {
		err = c.core.Signal(ctx, syscall.Signal(request.GetSignal()), request.GetAll())
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

// DeleteContainer implements api.SupervisorService.
func (s *server) DeleteContainer(ctx context.Context, request *api.DeleteContainerRequest) (*api.DeleteContainerResponse, error) {
	if token := request.GetChannel(); token != "" && !s.leases(token, request.GetContainerId()) {
		return nil, asStatus(fmt.Errorf("container %q: %w", request.GetContainerId(), virtcontainers.ErrNotFound))
	}
	removed, err := s.remove(ctx, request.GetContainerId(), request.GetForce())
	if err != nil {
		return nil, asStatus(err)
	}
	s.endIfUnused()
	return &api.DeleteContainerResponse{Last: removed.last, Creating: removed.creating}, nil
}

func timings(sandbox *virtcontainers.Sandbox) []*api.Timing {
	var result []*api.Timing
	for _, t := range sandbox.Timings() {
		result = append(result, &api.Timing{
			Stage: string(t.Stage), BeginNanos: t.Begin.Nanoseconds(), DurationNanos: t.Duration.Nanoseconds(),
		})
	}
	return result
}

// asStatus gives an error the code by which the client finds its kind again.
func asStatus(err error) error {
	code := codes.Unknown
	switch {
	case errors.Is(err, virtcontainers.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, virtcontainers.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, virtcontainers.ErrNotRunning):
		code = codes.Aborted
	case errors.Is(err, virtcontainers.ErrState):
		code = codes.FailedPrecondition
	}
	return status.Error(code, err.Error())
}

func blocks(devices []*api.BlockDevice) []device.Block {
	result := make([]device.Block, len(devices))
	for i, d := range devices {
		result[i] = device.Block{Major: d.GetMajor(), Minor: d.GetMinor(), ReadOnly: d.GetReadOnly()}
	}
	return result
}
