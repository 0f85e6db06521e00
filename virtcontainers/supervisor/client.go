package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// helloTimeout bounds the first call to a supervisor, which has nothing to wait
// for.
const helloTimeout = 10 * time.Second

// ErrGone says that the supervisor has ended, or is about to and serves nobody
// any more: what became of a container, its state tells.
var ErrGone = errors.New("the supervisor has ended")

// goneError is an error that shows that the supervisor is gone.
type goneError struct{ cause error }

func (e *goneError) Error() string        { return e.cause.Error() }
func (e *goneError) Unwrap() error        { return e.cause }
func (e *goneError) Is(target error) bool { return target == ErrGone }

// goneIf marks an error that is one of those by which an operation on a
// supervisor's sockets or on its process shows that it is gone.
func goneIf(err error, signs ...error) error {
	for _, sign := range signs {
		if errors.Is(err, sign) {
			return &goneError{cause: err}
		}
	}
	return err
}

// Client is a command's connection to a pod's supervisor. Errors of its methods
// wrap ErrGone when the supervisor is gone.
type Client struct {
	rpc     *ttrpc.Client
	service api.SupervisorClient
	channel *channel.Conn // nil until OpenChannel
	token   string
	entry   *store.Entry
	pid     int // the supervisor's
	// reserved tells that the supervisor has the container's state and config.
	reserved bool
	// launched tells that the pod is this client's.
	launched bool
}

// Launch starts the supervisor of a new pod with start, which forks a process
// that calls Run on the file it is given, in a mount namespace of its own. It
// returns once the supervisor owns the pod's state directory; the VM boots from
// then on. An id that is taken wraps virtcontainers.ErrExists.
func Launch(ctx context.Context, boot Boot, starting *os.File, start func(channel *os.File) error) (*Client, error) {
	conn, theirs, err := channel.Pair()
	if err != nil {
		return nil, err
	}
	err = start(theirs)
	theirs.Close()
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &Client{channel: conn, launched: true}
	if err := c.boot(ctx, boot, starting); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) boot(ctx context.Context, boot Boot, starting *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = c.channel.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var files []*os.File
	if starting != nil {
		files = []*os.File{starting}
	}
	if err := c.send(boot, files...); err != nil {
		return fmt.Errorf("launch the supervisor: %w", err)
	}
	if err := c.receiveReady(); err != nil {
		return err
	}
	states, err := store.Open(boot.Root)
	if err != nil {
		return err
	}
	entry, err := states.Lookup(boot.ID)
	if err != nil {
		return err
	}
	return c.connect(ctx, entry)
}

// Connect reaches the supervisor of the pod whose first container's entry is
// given. A supervisor that is gone is ErrGone.
func Connect(ctx context.Context, entry *store.Entry) (*Client, error) {
	c := &Client{}
	if err := c.connect(ctx, entry); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) connect(ctx context.Context, entry *store.Entry) error {
	conn, err := dial(ctx, entry, socketName, "unix")
	if err != nil {
		return err
	}
	c.entry = entry
	if c.pid, err = peerPID(conn); err != nil {
		conn.Close()
		return err
	}
	c.rpc = ttrpc.NewClient(conn)
	c.service = api.NewSupervisorClient(c.rpc)
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	if _, err := c.service.Hello(ctx, &api.HelloRequest{Oldest: oldestVersion, Newest: newestVersion}); err != nil {
		c.rpc.Close()
		return fmt.Errorf("greet the supervisor: %w", asError(err))
	}
	return nil
}

// OpenChannel makes the channel of a command that did not launch the
// supervisor.
func (c *Client) OpenChannel(ctx context.Context) error {
	conn, err := dial(ctx, c.entry, channelName, "unixpacket")
	if err != nil {
		return err
	}
	c.channel = channel.FromConn(conn)
	return c.receiveReady()
}

func (c *Client) send(message any, files ...*os.File) error {
	return goneIf(c.channel.Send(message, files...), unix.EPIPE, unix.ECONNRESET)
}

func (c *Client) receiveReady() error {
	var ready Ready
	if _, err := c.channel.Receive(&ready); err != nil {
		if errors.Is(err, io.EOF) {
			err = &goneError{cause: errors.New("it has ended without a word")}
		}
		return fmt.Errorf("hear from the supervisor: %w", err)
	}
	switch {
	case ready.Unfit != "":
		unfit := &UnfitError{Reason: ready.Unfit}
		if ready.Error != "" {
			unfit.Err = errors.New(ready.Error)
		}
		return unfit
	case ready.Exists:
		return &remoteError{text: ready.Error, kind: virtcontainers.ErrExists}
	case ready.Error != "":
		return errors.New(ready.Error)
	}
	c.token = ready.Token
	return nil
}

// SendFiles passes the trees of mounts, in the order of the mounts of the
// CreateContainer call to come. The files stay the caller's.
func (c *Client) SendFiles(files []*os.File) error {
	for len(files) > 0 {
		n := min(len(files), channel.MaxFiles)
		if err := c.send(commandMessage{Files: true}, files[:n]...); err != nil {
			return err
		}
		if err := c.receiveReady(); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}

// SendNetwork passes the network namespace of a pod, whose first container's
// CreateContainer call is to come. The file stays the caller's.
func (c *Client) SendNetwork(netns *os.File) error {
	if err := c.send(commandMessage{Network: true}, netns); err != nil {
		return err
	}
	return c.receiveReady()
}

// SendStandIn passes the supervisor's end of the channel of a process's
// stand-in; an empty process is the container's init.
func (c *Client) SendStandIn(container, process string, conn *os.File) error {
	if err := c.send(commandMessage{StandIn: container, Process: process}, conn); err != nil {
		return err
	}
	return c.receiveReady()
}

// Commit lets what was created through this client outlive it.
func (c *Client) Commit() error {
	if err := c.send(commandMessage{Commit: true}); err != nil {
		return err
	}
	return c.receiveReady()
}

// Reserve takes the container's id and records it as being created, with its
// config as JSON, so that hooks that run before Create find it. The stand-in
// must have been sent. A supervisor that does not know this does all of it in
// Create.
func (c *Client) Reserve(ctx context.Context, state store.State, config []byte) error {
	encoded, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the container's state: %w", err)
	}
	_, err = c.service.ReserveContainer(ctx, &api.ReserveContainerRequest{
		ContainerId: state.ID, Channel: c.token, StateJson: encoded, ConfigJson: config,
	})
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	c.reserved = err == nil
	return creationError(err)
}

// Create makes a container; request.Channel and request.StateJson are filled
// in here.
func (c *Client) Create(ctx context.Context, request *api.CreateContainerRequest, state store.State) (*api.CreateContainerResponse, error) {
	request.Channel = c.token
	if c.reserved {
		request.ConfigJson = nil
	} else {
		encoded, err := json.Marshal(state)
		if err != nil {
			return nil, fmt.Errorf("encode the container's state: %w", err)
		}
		request.StateJson = encoded
	}
	response, err := c.service.CreateContainer(ctx, request)
	return response, creationError(err)
}

// creationError is asError for a container that others can delete meanwhile.
func creationError(err error) error {
	if errors.Is(err, ttrpc.ErrClosed) {
		err = fmt.Errorf("the pod has ended: it was deleted, or its supervisor has died, meanwhile: %w", err)
	}
	return asError(err)
}

// Start runs a created container's program.
func (c *Client) Start(ctx context.Context, id string) (*api.StartContainerResponse, error) {
	response, err := c.service.StartContainer(ctx, &api.ContainerRequest{ContainerId: id})
	return response, asError(err)
}

// Exec runs a process in a container; request.Channel is filled in here.
func (c *Client) Exec(ctx context.Context, request *api.ExecProcessRequest) error {
	request.Channel = c.token
	_, err := c.service.ExecProcess(ctx, request)
	return asError(err)
}

// ContainerProcess is the init process of a container as its config described
// it when it was created.
func ContainerProcess(entry *store.Entry) (*specs.Process, error) {
	spec, err := entry.Config()
	if err != nil {
		return nil, err
	}
	if spec.Process == nil {
		return nil, errors.New("the container's config has no process")
	}
	return spec.Process, nil
}

// Kill sends a signal to a container's init, or with all to all of it.
func (c *Client) Kill(ctx context.Context, id string, signal syscall.Signal, all bool) error {
	_, err := c.service.KillContainer(ctx, &api.KillContainerRequest{ContainerId: id, Signal: uint32(signal), All: all})
	return asError(err)
}

// Delete removes a stopped container, or with force any; of a client with a
// channel, only one that was created through it. When it was the last one of
// the pod, the supervisor has ended on return. creating tells that the
// container was being created, by a command that learns of this and sees to the
// rest.
func (c *Client) Delete(ctx context.Context, id string, force bool) (creating bool, err error) {
	pid, err := c.pidfd()
	if err != nil {
		return false, err
	}
	defer pid.Close()
	response, err := c.service.DeleteContainer(ctx, &api.DeleteContainerRequest{ContainerId: id, Force: force, Channel: c.token})
	if err != nil || !response.GetLast() {
		return response.GetCreating(), asError(err)
	}
	c.Close() // the supervisor waits for its channels
	return response.GetCreating(), awaitExit(ctx, pid)
}

// Abandon gives up what was created through this client and not committed. It
// returns when a supervisor that this leaves without a container has ended.
func (c *Client) Abandon(ctx context.Context) error {
	pid, err := c.pidfd()
	c.Close()
	if err != nil {
		return nil // it has ended
	}
	defer pid.Close()
	if !c.launched {
		return nil // it has other containers
	}
	return awaitExit(ctx, pid)
}

// pidfd watches the supervisor.
func (c *Client) pidfd() (*os.File, error) {
	fd, err := unix.PidfdOpen(c.pid, 0)
	if err != nil {
		return nil, goneIf(fmt.Errorf("watch the supervisor, process %d: %w", c.pid, err), unix.ESRCH)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Close ends the connection, and with it the lease on what was not committed.
// Idempotent.
func (c *Client) Close() {
	if c.rpc != nil {
		c.rpc.Close()
	}
	if c.channel != nil {
		c.channel.Close()
	}
}

// peerPID asks the kernel which process made the socket that conn leads to.
func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reach the supervisor's socket: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("reach the supervisor's socket: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("ask for the supervisor's pid: %w", credErr)
	}
	return int(cred.Pid), nil
}

// awaitExit blocks until the supervisor behind a pidfd has ended.
func awaitExit(ctx context.Context, pidfd *os.File) error {
	if err := store.AwaitEnd(ctx, pidfd); err != nil {
		return fmt.Errorf("wait for the supervisor's end: %w", err)
	}
	return nil
}

func dial(ctx context.Context, entry *store.Entry, name, network string) (*net.UnixConn, error) {
	conn, err := entry.Dial(ctx, name, network)
	if err != nil {
		return nil, goneIf(fmt.Errorf("reach the supervisor: %w", err), fs.ErrNotExist, unix.ECONNREFUSED)
	}
	return conn, nil
}

// remoteError is an error of the supervisor, with its kind found again.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// asError undoes asStatus.
func asError(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return goneIf(err, ttrpc.ErrClosed)
	}
	kind := err
	switch s.Code() { //nolint:exhaustive // the codes that asStatus gives
	case codes.AlreadyExists:
		kind = virtcontainers.ErrExists
	case codes.NotFound:
		kind = virtcontainers.ErrNotFound
	case codes.Aborted:
		kind = virtcontainers.ErrNotRunning
	case codes.FailedPrecondition:
		kind = virtcontainers.ErrState
	}
	return &remoteError{text: s.Message(), kind: kind}
}

// Pause freezes a container's processes.
func (c *Client) Pause(ctx context.Context, id string) error {
	_, err := c.service.PauseContainer(ctx, &api.ContainerRequest{ContainerId: id})
	return asError(err)
}

// Resume lets a paused container go on.
func (c *Client) Resume(ctx context.Context, id string) error {
	_, err := c.service.ResumeContainer(ctx, &api.ContainerRequest{ContainerId: id})
	return asError(err)
}

// Update changes a container's limits: resources is the guest's view of an OCI
// LinuxResources, as JSON.
func (c *Client) Update(ctx context.Context, id string, resources []byte) error {
	_, err := c.service.UpdateContainer(ctx, &api.UpdateContainerRequest{ContainerId: id, ResourcesJson: resources})
	return asError(err)
}

// Stats returns a container's statistics as the JSON data of runc's events.
func (c *Client) Stats(ctx context.Context, id string) ([]byte, error) {
	response, err := c.service.ContainerStats(ctx, &api.ContainerRequest{ContainerId: id})
	return response.GetStatsJson(), asError(err)
}

// Processes lists a container's processes.
func (c *Client) Processes(ctx context.Context, id string) (*api.ListProcessesResponse, error) {
	response, err := c.service.ListProcesses(ctx, &api.ContainerRequest{ContainerId: id})
	return response, asError(err)
}
