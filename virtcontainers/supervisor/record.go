package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// cgroupTimeout bounds the wait for the last processes of a control group that
// is to be removed: killed ones, which release their memory.
const cgroupTimeout = 20 * time.Second

// record is what the supervisor keeps of a container beside the pod: its state
// on disk and its stand-in. It is the container's pod.Keeper.
type record struct {
	server  *server
	id      string
	request *api.ReserveContainerRequest

	// What follows is written by Claim.
	entry *store.Entry     // nil: nothing was claimed
	group *cgroup.Group    // of the host, for its stand-ins
	conn  *channel.Conn    // its stand-in's
	owner *commandChannel  // of the command that makes it
	hooks []byte           // what hooks in the guest are told of it
	ready chan struct{}    // closed when container is written
	inPod *pod.Container   // written before ready is closed
	execs map[int]struct{} // the pids of its other processes' stand-ins, guarded by the server's mu

	mu    sync.Mutex // guards state
	state store.State
}

// Claim implements pod.Keeper: it takes the container's state directory and its
// stand-in, and puts down what the container is.
func (r *record) Claim(context.Context) error {
	if err := r.server.claim(r); err != nil {
		return err
	}
	var state store.State
	if err := json.Unmarshal(r.request.GetStateJson(), &state); err != nil {
		return fmt.Errorf("decode the container's state: %w", err)
	}
	var err error
	if r.hooks, err = stateForHooks(state); err != nil {
		return err
	}
	if err := r.save(state, r.request.GetConfigJson()); err != nil {
		return err
	}
	return r.place()
}

// claim takes what the command has sent for the container. The pod's own state
// directory was reserved when the pod began.
func (s *server) claim(r *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, ok := s.channels[r.request.GetChannel()]
	if !ok {
		return errNoChannel
	}
	key := processKey{container: r.id}
	standIn, ok := owner.standIns[key]
	if !ok {
		return errNoStandIn
	}
	entry := s.first
	if r.id == s.id && entry != nil {
		s.first = nil
	} else {
		var err error
		if entry, err = s.store.Reserve(r.id); err != nil {
			return err
		}
	}
	delete(owner.standIns, key)
	r.entry, r.conn, r.owner = entry, standIn, owner
	s.records[r.id] = r
	owner.created = append(owner.created, r.id)
	return nil
}

// save records the container with the config that it was made from: later
// changes of the bundle have no effect.
func (r *record) save(state store.State, config []byte) error {
	if err := r.entry.SaveConfig(config); err != nil {
		return err
	}
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = state
	r.state.SandboxID = r.server.id
	r.state.SupervisorPID, r.state.SupervisorStartTime = os.Getpid(), start
	r.state.Status = virtcontainers.StatusCreating
	return r.entry.Save(r.state)
}

// place moves the container's stand-in into the control group that callers look
// for it in. That of the pod's first container is the pod's own.
func (r *record) place() error {
	standIn := r.standIn()
	r.mu.Lock()
	recorded := r.state.Cgroup
	r.mu.Unlock()
	group, err := recorded.Open()
	if err != nil {
		return err
	}
	r.group = group
	move := group.Create
	if r.id == r.server.id {
		move = group.Add
	}
	return placeStandIn(group, standIn.pid, standIn.start, move)
}

// process names a process for good.
type process struct {
	pid   int
	start uint64
}

// standIn is the container's stand-in.
func (r *record) standIn() process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return process{r.state.StandInPID, r.state.StandInStartTime}
}

// errStandInGone says that a pid is not the stand-in's any more, which may be
// anybody's.
var errStandInGone = errors.New("the stand-in has ended: another process may have its pid")

// placeStandIn moves a stand-in into a control group, if there is one, and nobody
// who has its pid later. Between two looks that find it alive, the pid was its own.
func placeStandIn(group *cgroup.Group, pid int, start uint64, move func(pid int) error) error {
	if group == nil {
		return nil
	}
	if !store.Alive(pid, start) {
		return fmt.Errorf("move process %d into the control group: %w", pid, errStandInGone)
	}
	if err := move(pid); err != nil {
		return err
	}
	if !store.Alive(pid, start) {
		return fmt.Errorf("move process %d into the control group: %w", pid, errStandInGone)
	}
	return nil
}

// maxReason bounds what is recorded of the reason of an end, in characters.
const maxReason = 2000

// Record implements pod.Keeper.
func (r *record) Record(status virtcontainers.Status, exit *virtcontainers.Exit) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Status == virtcontainers.StatusStopped {
		return nil // it has ended meanwhile, and stays ended
	}
	r.state.Status = status
	if exit != nil {
		r.state.ExitCode = int(exit.Code)
		if exit.Reason != nil {
			r.state.Reason = fmt.Sprintf("%.*s", maxReason, exit.Reason)
		}
	}
	return r.entry.Save(r.state)
}

// Lost implements pod.Keeper: callers, who go by the stand-in's pid, take the
// container for stopped, which it is about to be.
func (r *record) Lost() bool {
	standIn := r.standIn()
	return !store.Alive(standIn.pid, standIn.start)
}

// Release implements pod.Keeper.
func (r *record) Release(ctx context.Context, last bool) error {
	if r.entry == nil {
		return nil
	}
	r.conn.Close() // the stand-in ends, if it has not, and leaves its control group
	r.server.mu.Lock()
	delete(r.server.records, r.id)
	r.server.mu.Unlock()
	if r.id != r.server.id {
		ctx, cancel := context.WithTimeout(ctx, cgroupTimeout)
		defer cancel()
		return errors.Join(r.group.Remove(ctx), r.entry.Remove())
	}
	if last {
		return nil // the pod's directory goes with the pod
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Deleted = true
	return r.entry.Save(r.state)
}

// standInPIDs lists the stand-ins of the container's processes, the init's first.
func (r *record) standInPIDs() []int32 {
	pids := []int32{int32(r.standIn().pid)}
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	for _, pid := range slices.Sorted(maps.Keys(r.execs)) {
		pids = append(pids, int32(pid))
	}
	return pids
}

// standIns are the stand-ins of the pod's processes, as monitor.Owner has them.
func (s *server) standIns() map[int]string {
	s.mu.Lock()
	records := slices.Collect(maps.Values(s.records))
	s.mu.Unlock()
	found := make(map[int]string)
	for _, r := range records {
		for _, pid := range r.standInPIDs() {
			found[int(pid)] = "stand-in"
		}
	}
	return found
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
