package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	sandbox "github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/remains"
	"kata-runtime/virtcontainers/store"
)

const (
	// deleteTimeout is less than what containerd gives a delete
	// (io.containerd.timeout.shim.cleanup, 5 s).
	deleteTimeout = 4 * time.Second
	// serverPatience bounds the wait for a first answer of a server that
	// containerd has lost, deletePatience the one for the end of a container, and
	// endPatience the one for the server's own.
	serverPatience = time.Second
	deletePatience = 3 * time.Second
	endPatience    = 2 * time.Second
)

// killed is the exit status of a process that SIGKILL has ended.
const killed = 128 + uint32(unix.SIGKILL)

// delete removes what is left of a container whose server containerd does not
// reach any more, and says how it has ended. Older containerds call it after every
// orderly end too: then there is nothing left to do. What cannot be removed in time
// is a warning, since containerd forgets the container only with an answer; the
// next container of that id removes it.
func (p Program) delete(ctx context.Context, inv invocation, stdout, warnings io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	bundle, err := inv.directory()
	if err != nil {
		return err
	}
	state, err := p.removeContainer(ctx, inv, bundle)
	if err != nil {
		fmt.Fprintf(warnings, "%s: clean up after container %s: %v\n", Name, inv.id, err)
	}
	if path, ok := readAddress(bundle); ok {
		if err := removeStale(ctx, path); err != nil {
			fmt.Fprintf(warnings, "%s: clean up after container %s: %v\n", Name, inv.id, err)
		}
	}
	response := &task.DeleteResponse{Pid: uint32(state.StandInPID), ExitStatus: killed, ExitedAt: timestamppb.Now()}
	if state.Status == virtcontainers.StatusStopped {
		response.ExitStatus = uint32(state.ExitCode)
	}
	data, err := proto.Marshal(response)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	if _, err := stdout.Write(data); err != nil {
		return fmt.Errorf("answer the caller: %w", err)
	}
	return nil
}

// removeContainer removes what is left of a container and returns its last state.
func (p Program) removeContainer(ctx context.Context, inv invocation, bundle string) (store.State, error) {
	states, err := store.Open(p.stateRoot(inv.namespace))
	if err != nil {
		return store.State{}, err
	}
	entry, err := states.Lookup(inv.id)
	if errors.Is(err, virtcontainers.ErrNotFound) {
		return store.State{}, nil
	}
	if err != nil {
		return store.State{}, err
	}
	state, err := entry.Load()
	switch {
	case errors.Is(err, virtcontainers.ErrNotFound):
		return store.State{}, nil
	case errors.Is(err, store.ErrDamaged):
		return store.State{}, errors.Join(err, entry.Remove())
	case err != nil:
		return store.State{}, err
	}
	alive := store.Alive(state.SupervisorPID, state.SupervisorStartTime)
	switch {
	case alive && state.Deleted:
		return state, nil // the pod lives on
	case alive:
		reached, err := askServer(ctx, bundle, inv)
		switch {
		case err == nil:
			return state, nil
		case reached, state.SandboxID != state.ID && state.SandboxID != "":
			return state, fmt.Errorf("the pod's server, process %d, is there and does not delete it: %w", state.SupervisorPID, err)
		}
		if err := endServer(ctx, state); err != nil {
			return state, err
		}
	}
	_, err = remains.Remove(ctx, states, entry, state)
	return state, err
}

// askServer lets a server that still runs delete a container. reached tells that
// it has answered: it serves its pod.
func askServer(ctx context.Context, bundle string, inv invocation) (reached bool, err error) {
	path, ok := readAddress(bundle)
	if !ok {
		return false, errors.New("its address is not known")
	}
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"containerd-namespace-ttrpc": {inv.namespace}})
	ctx, cancel := context.WithTimeout(ctx, deletePatience)
	defer cancel()
	first, cancelFirst := context.WithTimeout(ctx, serverPatience)
	defer cancelFirst()
	var dialer net.Dialer
	conn, err := dialer.DialContext(first, "unix", path)
	if err != nil {
		return false, err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	server := task.NewTTRPCTaskClient(client)
	_, err = server.State(first, &task.StateRequest{ID: inv.id})
	if _, said := status.FromError(err); !said {
		return false, err // it was none of the server's
	}
	if err == nil {
		_, err = server.Kill(ctx, &task.KillRequest{ID: inv.id, Signal: uint32(unix.SIGKILL), All: true})
	}
	if err == nil || status.Code(err) == codes.NotFound { // as for a process that has ended
		_, err = server.Wait(ctx, &task.WaitRequest{ID: inv.id})
	}
	if err == nil {
		_, err = server.Delete(ctx, &task.DeleteRequest{ID: inv.id})
	}
	if status.Code(err) == codes.NotFound { // deleted already, or a sandbox and no task
		_, err = sandbox.NewTTRPCSandboxClient(client).ShutdownSandbox(ctx, &sandbox.ShutdownSandboxRequest{SandboxID: inv.id})
	}
	if errors.Is(err, ttrpc.ErrClosed) { // it ends, and was faster than its answer
		return false, err
	}
	if code := status.Code(err); code == codes.NotFound || code == codes.Unimplemented { // no sandbox, or one of an older build
		err = nil
	}
	return true, err
}

// endServer ends the server of a pod that nobody reaches.
func endServer(ctx context.Context, state store.State) error {
	fd, err := unix.PidfdOpen(state.SupervisorPID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the server, process %d: %w", state.SupervisorPID, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	if !store.Alive(state.SupervisorPID, state.SupervisorStartTime) {
		return nil // the descriptor may be another process's
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the server, process %d: %w", state.SupervisorPID, err)
		}
		patience, cancel := context.WithTimeout(ctx, endPatience)
		err = store.AwaitEnd(patience, pidfd)
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("end the server, process %d: %w", state.SupervisorPID, err)
}
