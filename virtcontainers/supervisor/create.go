package supervisor

import (
	"context"
	"errors"
	"os"
	"syscall"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/device"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/supervisor/api"
)

// errDeleted is why a creation failed whose reservation is gone.
var errDeleted = errors.New("the container was deleted meanwhile")

// ReserveContainer implements api.SupervisorService.
func (s *server) ReserveContainer(ctx context.Context, request *api.ReserveContainerRequest) (*api.Empty, error) {
	if _, err := s.reserve(ctx, request); err != nil {
		return nil, asStatus(err)
	}
	return &api.Empty{}, nil
}

func (s *server) reserve(ctx context.Context, request *api.ReserveContainerRequest) (*record, error) {
	r := &record{
		server: s, id: request.GetContainerId(), request: request,
		ready: make(chan struct{}), execs: make(map[int]struct{}),
	}
	reserved, err := s.pod.Reserve(ctx, r.id, r)
	if err != nil {
		return nil, err
	}
	r.inPod = reserved
	close(r.ready)
	return r, nil
}

// reserved finds a command's reservation, or makes one now of what it has not
// reserved.
func (s *server) reserved(ctx context.Context, request *api.CreateContainerRequest) (*record, error) {
	if len(request.GetStateJson()) > 0 {
		return s.reserve(ctx, &api.ReserveContainerRequest{
			ContainerId: request.GetContainerId(), Channel: request.GetChannel(),
			StateJson: request.GetStateJson(), ConfigJson: request.GetConfigJson(),
		})
	}
	r := s.record(request.GetContainerId())
	if r == nil || r.owner.token != request.GetChannel() {
		return nil, errDeleted
	}
	select {
	case <-r.ready:
		return r, nil
	default:
		return nil, errDeleted
	}
}

// record finds a container's; nil for none.
func (s *server) record(id string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[id]
}

// CreateContainer implements api.SupervisorService.
func (s *server) CreateContainer(ctx context.Context, request *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	r, err := s.reserved(ctx, request)
	if err != nil {
		return nil, asStatus(err)
	}
	if err := s.create(ctx, r, request); err != nil {
		return nil, asStatus(err)
	}
	info, guest := s.sandbox.Machine(), s.sandbox.Guest()
	s.log.Info("container created", "container", r.id)
	return &api.CreateContainerResponse{
		Timings: timings(s.sandbox),
		Machine: &api.Machine{
			Driver: info.Driver, Version: info.Version, Accelerator: info.Accelerator, Vsock: s.vsock,
			GuestKernel: guest.GetKernelRelease(), AgentRssBytes: guest.GetAgentRssBytes(), VmmPid: int32(info.PID),
		},
		SupervisorPid: int32(syscall.Getpid()),
	}, nil
}

func (s *server) create(ctx context.Context, r *record, request *api.CreateContainerRequest) error {
	wanted, err := s.podRequest(r, request)
	if err != nil {
		_, removeErr := s.pod.Remove(context.WithoutCancel(ctx), r.id, true)
		if errors.Is(removeErr, virtcontainers.ErrNotFound) {
			removeErr = nil // another call was faster
		}
		return errors.Join(err, removeErr)
	}
	return r.inPod.Create(ctx, wanted)
}

// podRequest is what the pod is asked for.
func (s *server) podRequest(r *record, request *api.CreateContainerRequest) (pod.Request, error) {
	// A program that does nothing runs anywhere.
	if err := s.machine.CheckArchitecture(request.GetArchitecture(), request.GetArchitectureBy()); err != nil && !request.GetPause() {
		return pod.Request{}, &virtcontainers.StageError{Stage: virtcontainers.StagePrepare, Err: err}
	}
	files, err := s.claimFiles(r.owner, len(request.GetMounts()))
	if err != nil {
		return pod.Request{}, err
	}
	mounts := make([]share.Mount, len(files))
	for i, m := range request.GetMounts() {
		mounts[i] = share.Mount{Name: m.GetName(), Tree: files[i], Temporary: m.GetTemporary(), Attributes: share.Attributes{
			ReadOnly: m.GetReadOnly(), RecursiveReadOnly: m.GetRecursiveReadOnly(), Follow: m.GetFollow(),
		}}
	}
	namespace, err := s.network(r)
	if err != nil {
		for _, file := range files {
			file.Close()
		}
		return pod.Request{}, &virtcontainers.StageError{Stage: virtcontainers.StageNetwork, Err: err}
	}
	return pod.Request{
		Options: virtcontainers.ContainerOptions{
			Spec: request.GetSpecJson(), State: r.hooks,
			ShareName: request.GetShareName(), Mounts: mounts,
			IO:       virtcontainers.IO{Stdin: request.GetStdin(), Stdout: request.GetStdout(), Stderr: request.GetStderr()},
			Storages: storages(request),
			Devices:  blocks(request.GetBlockDevices()),
			Pause:    request.GetPause(),
		},
		Network: namespace, ResolvConf: request.GetResolvConf(),
		Attachment: newStandIn(r.conn, s.log.With("container", r.id)),
	}, nil
}

// network takes the namespace that was sent for the pod's first container; nil for
// another container.
func (s *server) network(r *record) (*network.Namespace, error) {
	if r.id != s.id || !s.networked {
		return nil, nil //nolint:nilnil // none
	}
	s.mu.Lock()
	netns := r.owner.netns
	r.owner.netns = nil
	s.mu.Unlock()
	if netns == nil {
		return nil, errNoNetwork
	}
	return network.NewNamespace(netns)
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

func blocks(devices []*api.BlockDevice) []device.Block {
	result := make([]device.Block, len(devices))
	for i, d := range devices {
		result[i] = device.Block{Major: d.GetMajor(), Minor: d.GetMinor(), ReadOnly: d.GetReadOnly()}
	}
	return result
}

// claimFiles takes the mounts' files that a command sent.
func (s *server) claimFiles(c *commandChannel, count int) ([]*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(c.files) != count {
		return nil, errors.New("the mounts and the files that were sent for them differ in number")
	}
	claimed := c.files
	c.files = nil
	return claimed, nil
}
