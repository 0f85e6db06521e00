package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/cgroup"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/factory"
	"kata-runtime/virtcontainers/factory/pool"
	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/monitor"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/pod"
	"kata-runtime/virtcontainers/remains"
	"kata-runtime/virtcontainers/sizing"
	"kata-runtime/virtcontainers/store"
)

// home is the pod with what the shim keeps of it on the host: its entry in the
// state directory, by which another process can clean up, its control group, and
// the process that holds its namespaces.
type home struct {
	id      string
	pod     *pod.Pod
	sandbox *virtcontainers.Sandbox
	holder  *heldBy
	config  *config.Config
	// networked: the machine is connected with the holder's network namespace.
	networked bool
	// sandboxed is what a pod without a first container has; nil with one.
	sandboxed *sandboxed
	log       *slog.Logger

	// release undoes what making it has done, the last first.
	release []func(context.Context) error

	sandboxMember namespace.Member
	membersMu     sync.Mutex         // guards members
	members       []namespace.Member // with holders of their own

	closing sync.Once
	closed  chan struct{} // when nothing is left
	err     error         // written before closed is closed
}

// plan is what a pod is made from: its first container, or what containerd says
// of a sandbox.
type plan struct {
	// dir is containerd's bundle, rootfs the first container's.
	dir, rootfs string
	// spec has the pod's annotations, control group and namespaces; config is its
	// JSON, for who cleans up.
	spec   *specs.Spec
	config []byte
	// namespaces are those of the process that stands for the pod.
	namespaces []specs.LinuxNamespace
	// hostname is the guest's.
	hostname string
	// demand is the first container's.
	demand sizing.Demand
	// interfaces is how many the network namespace has already. hostNetwork: it is
	// the host's.
	interfaces  int
	hostNetwork bool
	settings    *config.Config
	systemd     bool // control groups are systemd's
}

// planBundle plans the pod of a container that starts one.
func planBundle(b *bundle.Bundle, settings *config.Config, systemd bool) (plan, error) {
	_, config, err := b.Encode()
	return plan{
		dir: b.Dir, rootfs: b.Rootfs, spec: b.Spec, config: config, namespaces: b.Namespaces(), hostname: b.Hostname,
		demand: sizing.Of(b.Guest.Spec.Linux.Resources), interfaces: b.Interfaces, hostNetwork: b.HostNetwork,
		settings: settings, systemd: systemd,
	}, err
}

// newHome makes a pod. keepEmpty is pod.Options'.
func (s *service) newHome(ctx context.Context, p plan, keepEmpty bool) (_ *home, err error) {
	h := &home{id: s.options.ID, config: p.settings, log: s.options.Log, closed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.undo(context.WithoutCancel(ctx)))
		}
	}()
	entry, err := s.reserve(ctx, p)
	if err != nil {
		return nil, err
	}
	h.deferred(func(context.Context) error { return entry.Remove() })
	group, err := h.enterGroup(entry, p)
	if err != nil {
		return nil, err
	}
	h.holder, err = s.startHolder(ctx, holder.Options{ID: h.id, Hostname: p.spec.Hostname, Namespaces: p.namespaces})
	if err != nil {
		return nil, err
	}
	h.deferred(func(context.Context) error {
		h.holder.Stop()
		return nil
	})
	h.sandboxMember = namespace.Member{ID: h.id, PID: h.holder.PID(), Users: namespace.UsersPath(p.spec)}
	if err := h.recordHolder(entry); err != nil {
		return nil, err
	}
	services, err := loopback.ParseServices(p.settings.Runtime.LoopbackPorts)
	if err != nil {
		return nil, fmt.Errorf("loopback_ports: %w", err)
	}
	h.sandbox, _, err = s.options.NewSandbox(ctx, factory.Spec{
		ID: h.id, Dir: entry.Dir(), ShareDir: entry.Path("share"), Hostname: p.hostname, Group: group,
		Demand: p.demand, SandboxDemand: sizing.OfSandbox(p.spec.Annotations),
		Interfaces: p.interfaces, HostNetwork: p.hostNetwork, Kind: pool.Shim, Config: p.settings, Log: s.options.Log,
	})
	if err != nil {
		return nil, err
	}
	watched, err := monitor.Serve(entry, h.sandbox, monitor.Owner{Role: "shim", StandIns: h.holders}, s.options.Log)
	if err != nil {
		return nil, errors.Join(err, h.sandbox.Stop(context.WithoutCancel(ctx)))
	}
	h.deferred(func(context.Context) error {
		watched.Close() // after the pod's end, of which its connections hear
		return nil
	})
	kind := p.network()
	h.networked = kind != pod.NetworkNone
	h.pod = pod.New(pod.Options{Sandbox: h.sandbox, Network: kind, Loopback: services, KeepEmpty: keepEmpty, Log: s.options.Log})
	h.deferred(func(ctx context.Context) error {
		err := h.pod.Stop(ctx)
		h.pod.Wait()
		return err
	})
	// As if the machine had ended of itself: its containers wait to be removed.
	s.follow(h.holder, h.id, func() error { return h.sandbox.Stop(context.Background()) }) //nolint:contextcheck // it outlives the call
	return h, nil
}

func (p *plan) network() pod.Network {
	switch {
	case p.hostNetwork:
		return pod.NetworkHost
	case p.settings.Runtime.NetworkModel == config.NetworkNone:
		return pod.NetworkNone
	default:
		return pod.NetworkOwn
	}
}

// deferred notes what undo is to do.
func (h *home) deferred(undo func(context.Context) error) { h.release = append(h.release, undo) }

func (h *home) undo(ctx context.Context) error {
	var errs []error
	for i := len(h.release) - 1; i >= 0; i-- {
		errs = append(errs, h.release[i](ctx))
	}
	h.release = nil
	return errors.Join(errs...)
}

// close ends the pod and releases everything. Idempotent: later calls wait.
func (h *home) close(ctx context.Context) error {
	h.closing.Do(func() {
		h.err = h.undo(ctx)
		if h.err != nil {
			h.log.Error("release the pod", "error", h.err)
		}
		close(h.closed)
	})
	<-h.closed
	return h.err
}

// isClosed tells that nothing of the pod is left. None is closed, too.
func (h *home) isClosed() bool {
	if h == nil {
		return true
	}
	select {
	case <-h.closed:
		return true
	default:
		return false
	}
}

// reserve writes down whose the pod is, before there is anything of it.
func (s *service) reserve(ctx context.Context, p plan) (*store.Entry, error) {
	states, err := store.Open(s.options.Root)
	if err != nil {
		return nil, err
	}
	// What a shim that was killed has left, and delete did not remove in time.
	if err := remains.Clear(ctx, states, s.options.ID); err != nil {
		return nil, err
	}
	entry, err := states.Reserve(s.options.ID) //nolint:contextcheck // its wait is bounded by itself
	if err != nil {
		return nil, err
	}
	err = entry.ClaimPod(s.options.ID)
	if err == nil {
		err = entry.Update(func(state *store.State) error {
			state.OCIVersion, state.Bundle, state.Rootfs = p.spec.Version, p.dir, p.rootfs
			state.Annotations = p.spec.Annotations
			return nil
		})
	}
	if err == nil {
		err = entry.SaveConfig(p.config)
	}
	if err != nil {
		return nil, errors.Join(err, entry.Remove())
	}
	return entry, nil
}

// enterGroup moves this process into the pod's control group, which is recorded
// first.
func (h *home) enterGroup(entry *store.Entry, p plan) (*cgroup.Group, error) {
	path := p.spec.Linux.CgroupsPath
	record, err := cgroup.Resolve(cgroup.Options{ID: h.id, Path: path, Systemd: p.systemd || ofSystemd(path, cgroup.SystemdRuns())})
	if err != nil || record == nil {
		return nil, err
	}
	leave, err := entry.EnterCgroup(record)
	h.deferred(leave)
	if err != nil {
		return nil, err
	}
	return record.Open()
}

// ofSystemd tells whether a control group's path is a unit of systemd's,
// slice:prefix:name. Options that say so reach a shim that is not runc's from some
// versions of containerd alone. Where systemd does not run it is a name like any
// other, as to runc: containerd's CRI writes it for each pod whose parent is said to
// end in .slice.
func ofSystemd(path string, systemdRuns bool) bool {
	parts := strings.Split(path, ":")
	return systemdRuns && len(parts) == 3 && strings.HasSuffix(parts[0], ".slice")
}

func (h *home) recordHolder(entry *store.Entry) error {
	start, err := store.StartTime(h.holder.PID())
	if err != nil {
		return err
	}
	return entry.Update(func(state *store.State) error {
		state.StandInPID, state.StandInStartTime = h.holder.PID(), start
		return nil
	})
}

// ID implements bundle.Pod.
func (h *home) ID() string { return h.id }

// Owner implements bundle.Pod: the namespaces that others find are the holders'.
func (h *home) Owner(joined specs.LinuxNamespace) (string, error) {
	h.membersMu.Lock()
	members := append([]namespace.Member{h.sandboxMember}, h.members...)
	h.membersMu.Unlock()
	id, err := namespace.Owner(joined, slices.Values(members))
	if id == h.id && h.sandboxed != nil && !h.sandboxed.needsPause {
		id = oci.PodItself
	}
	return id, err
}

func (h *home) addMember(member namespace.Member) {
	h.membersMu.Lock()
	defer h.membersMu.Unlock()
	h.members = append(h.members, member)
}

func (h *home) removeMember(id string) {
	h.membersMu.Lock()
	defer h.membersMu.Unlock()
	h.members = slices.DeleteFunc(h.members, func(m namespace.Member) bool { return m.ID == id })
}

// holders are the pod's namespace holders, as monitor.Owner has them.
func (h *home) holders() map[int]string {
	h.membersMu.Lock()
	defer h.membersMu.Unlock()
	found := map[int]string{h.holder.PID(): "namespace holder"}
	for _, m := range h.members {
		found[m.PID] = "namespace holder"
	}
	return found
}

// OnHostNetwork implements bundle.Pod.
func (h *home) OnHostNetwork() (bool, error) {
	return namespace.PathIsHost(specs.NetworkNamespace, namespace.OfProcess(h.holder.PID(), specs.NetworkNamespace))
}
