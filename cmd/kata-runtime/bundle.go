package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/limits"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/network"
	"kata-runtime/virtcontainers/oci"
	"kata-runtime/virtcontainers/share"
	"kata-runtime/virtcontainers/standin"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor/api"
)

// bundle is a loaded OCI bundle with the guest's view of it.
type bundle struct {
	dir, rootfs string // absolute
	spec        *specs.Spec
	hostname    string // the pod's, if the container starts one
	pod         *pod   // that the container joins; nil: it has one of its own
	shareName   string // of its directory in the share
	interfaces  int    // that its network namespace has already
	hostNetwork bool   // it has none of its own
	guest       *oci.GuestSpec
	guestJSON   []byte // of guest.Spec; see encode
	configJSON  []byte // of spec; see encode
}

// loadBundle reads a bundle, refuses what this runtime cannot do, and
// translates the rest for the guest. root is where its pod is looked for.
// allowHostNetwork tells that it may share the host's network.
func loadBundle(dir, id, root string, allowHostNetwork bool) (*bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the bundle: %w", err)
	}
	spec, err := oci.LoadSpec(dir)
	if err != nil {
		return nil, err
	}
	b := &bundle{dir: dir, rootfs: spec.Root.Path, spec: spec, shareName: share.NewName(id)}
	membership, err := oci.PodOf(spec.Annotations, id)
	if err != nil {
		return nil, err
	}
	if membership.Sandbox != "" { // first of all: its namespaces' paths may be those of a pod that is gone
		if b.pod, err = findPod(root, membership); err != nil {
			return nil, err
		}
	}
	notes, err := oci.LeaveOutHost(spec, func(ns specs.LinuxNamespace) (bool, error) {
		return namespace.PathIsHost(ns.Type, ns.Path)
	})
	if err != nil {
		return nil, err
	}
	if err := b.findNetwork(allowHostNetwork); err != nil {
		return nil, inHostNotes(err, notes)
	}
	if !filepath.IsAbs(b.rootfs) {
		b.rootfs = filepath.Join(dir, b.rootfs)
	}
	callers, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find the caller's host name: %w", err)
	}
	rlimits, err := limits.OfCaller(limits.System)
	if err != nil {
		return nil, err
	}
	options := oci.GuestOptions{
		ContainerID: id, SharePath: filepath.Join(protocol.ShareMountPoint, b.shareName), Rootfs: b.rootfs, BundleDir: dir,
		Sandbox: membership.Declared, Hostname: callers, Rlimits: rlimits,
	}
	if b.pod != nil {
		options.Owner = b.pod.owner
	}
	if b.guest, err = oci.Transform(spec, options); err != nil {
		return nil, inHostNotes(err, notes)
	}
	b.guest.Notes = append(b.guest.Notes, notes...)
	if b.pod == nil {
		b.hostname, err = podHostname(spec, callers)
	}
	return b, err
}

// inHostNotes adds to an error about a namespace that is not there what the
// specification has in its place.
func inHostNotes(err error, notes []string) error {
	if len(notes) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(notes, "; "))
}

// encode fills the JSON forms, once the size of the terminal is known.
func (b *bundle) encode() (err error) {
	b.guest.Spec.Process.ConsoleSize = b.spec.Process.ConsoleSize
	if b.guestJSON, err = json.Marshal(b.guest.Spec); err != nil {
		return fmt.Errorf("encode the guest's spec: %w", err)
	}
	if b.configJSON, err = json.Marshal(b.spec); err != nil {
		return fmt.Errorf("encode the spec: %w", err)
	}
	return nil
}

// trees are the detached mounts of a container, twice: for the share and for
// the stand-in.
type trees struct {
	forShare []*os.File // root file system first, what is copied last
	root     standin.Mount
	mounts   []standin.Mount
}

// openTrees clones the container's mounts as this process sees them: it is the
// one in the caller's mount namespace.
func (b *bundle) openTrees() (_ *trees, err error) {
	t := &trees{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if b.spec.Root.Readonly { // for the guest as for the container
		if err := b.makeMountPoints(); err != nil {
			return nil, err
		}
	}
	root, err := t.open(b.rootfs, true, nil)
	if err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	t.root = standin.Mount{Tree: root, Attributes: share.Attributes{ReadOnly: b.spec.Root.Readonly}}
	binds := b.guest.Binds
	for _, mount := range b.guest.Spec.Mounts {
		switch {
		case len(binds) > 0 && mount.Source == binds[0].GuestSource:
			if err := t.bind(binds[0]); err != nil {
				return nil, err
			}
			binds = binds[1:]
		case mount.Type == "tmpfs", mount.Type == "ramfs", b.isMemory(mount.Source):
			t.mounts = append(t.mounts, standin.Mount{Destination: mount.Destination})
		}
	}
	for _, volume := range b.guest.Memory {
		if volume.Source == "" {
			continue
		}
		tree, err := share.OpenTree(volume.Source, false)
		if err != nil {
			return nil, fmt.Errorf("memory volume: %w", err)
		}
		t.forShare = append(t.forShare, tree)
		if volume.IDMapping != nil {
			if err := mapIDs(volume.IDMapping, tree); err != nil {
				return nil, fmt.Errorf("memory volume: %w", err)
			}
		}
	}
	return t, nil
}

// isMemory tells whether a mount's source in the guest is a memory volume, or in
// one.
func (b *bundle) isMemory(source string) bool {
	return slices.ContainsFunc(b.guest.Memory, func(v oci.MemoryVolume) bool { return v.MountPoint == source }) ||
		slices.ContainsFunc(b.guest.MemoryDirectories, func(d oci.MemoryDirectory) bool { return d.MountPoint == source })
}

func (t *trees) bind(bind oci.Bind) error {
	tree, err := t.open(bind.Source, bind.Recursive, bind.IDMapping)
	if err != nil {
		return fmt.Errorf("mount %s: %w", bind.Destination, err)
	}
	t.mounts = append(t.mounts, standin.Mount{Tree: tree, Destination: bind.Destination, Attributes: attributes(bind)})
	return nil
}

// open clones the mount at path for the share, and returns another clone for
// the stand-in.
func (t *trees) open(path string, recursive bool, mapping *oci.IDMapping) (*os.File, error) {
	forShare, err := share.OpenTree(path, recursive)
	if err != nil {
		return nil, err
	}
	t.forShare = append(t.forShare, forShare)
	forStandIn, err := share.OpenTree(path, recursive)
	if err == nil && mapping != nil {
		if err = mapIDs(mapping, forShare, forStandIn); err != nil {
			forStandIn.Close()
		}
	}
	return forStandIn, err
}

// mapIDs makes trees that are attached nowhere yet id-mapped.
func mapIDs(mapping *oci.IDMapping, trees ...*os.File) error {
	convert := func(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
		var converted []syscall.SysProcIDMap
		for _, m := range list {
			converted = append(converted, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
		}
		return converted
	}
	users, err := share.NewUserNamespace(convert(mapping.UIDs), convert(mapping.GIDs))
	if err != nil {
		return err
	}
	defer users.Close()
	for _, tree := range trees {
		if err := share.MapIDs(tree, users, mapping.Recursive); err != nil {
			return err
		}
	}
	return nil
}

func (t *trees) close() {
	for _, tree := range t.forShare {
		tree.Close()
	}
	if t.root.Tree != nil {
		t.root.Tree.Close()
	}
	for _, mount := range t.mounts {
		if mount.Tree != nil {
			mount.Tree.Close()
		}
	}
}

func attributes(bind oci.Bind) share.Attributes {
	return share.Attributes{
		ReadOnly: bind.ReadOnly, RecursiveReadOnly: bind.RecursiveReadOnly, Follow: bind.Follow,
	}
}

// mounts describes the trees to the supervisor, in their order.
func (b *bundle) mounts() []*api.Mount {
	mounts := []*api.Mount{{Name: share.Rootfs, ReadOnly: b.spec.Root.Readonly}}
	for i, bind := range b.guest.Binds {
		a := attributes(bind)
		mounts = append(mounts, &api.Mount{
			Name: share.Bind(i), ReadOnly: a.ReadOnly, RecursiveReadOnly: a.RecursiveReadOnly, Follow: a.Follow,
		})
	}
	for i, volume := range b.guest.Memory {
		if volume.Source != "" {
			mounts = append(mounts, &api.Mount{Name: share.Memory(i), ReadOnly: true, Temporary: true})
		}
	}
	return mounts
}

// resolvConf names the mount at /etc/resolv.conf, "" for none.
func (b *bundle) resolvConf() string {
	name := ""
	for i, bind := range b.guest.Binds {
		if filepath.Clean(bind.Destination) == "/etc/resolv.conf" {
			name = share.Bind(i)
		}
	}
	return name
}

// memoryVolumes describes the guest's file systems that the pod shares.
func (b *bundle) memoryVolumes() []*api.MemoryVolume {
	var volumes []*api.MemoryVolume
	for _, volume := range b.guest.Memory {
		volumes = append(volumes, &api.MemoryVolume{
			MountPoint: volume.MountPoint, Options: volume.Options, Keep: volume.Keep, CopyFrom: volume.GuestSource,
		})
	}
	return volumes
}

// memoryDirectories describes what the container has of memory volumes.
func (b *bundle) memoryDirectories() []*api.MemoryDirectory {
	var directories []*api.MemoryDirectory
	for _, d := range b.guest.MemoryDirectories {
		directories = append(directories, &api.MemoryDirectory{MountPoint: d.MountPoint, Volume: d.Volume, Path: d.Path})
	}
	return directories
}

// blockDevices describes the container's block devices to the supervisor.
func (b *bundle) blockDevices() []*api.BlockDevice {
	devices := make([]*api.BlockDevice, len(b.guest.BlockDevices))
	for i, d := range b.guest.BlockDevices {
		devices[i] = &api.BlockDevice{Major: d.Major, Minor: d.Minor, ReadOnly: d.ReadOnly}
	}
	return devices
}

// lookup finds a container's state.
func lookup(root, id string) (*store.Entry, error) {
	states, err := store.Open(root)
	if err != nil {
		return nil, err
	}
	return states.Lookup(id)
}

// socketPair makes a channel of which neither end is this process's.
func socketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel"), nil
}

// findNetwork looks at which network the container asks for. The host's is
// refused unless allowHost.
func (b *bundle) findNetwork(allowHost bool) error {
	mode, err := oci.CheckNetwork(b.spec)
	switch {
	case errors.Is(err, oci.ErrHostNetwork) && allowHost:
		b.hostNetwork = true
		return b.checkPodOnHost()
	case err != nil || mode == oci.NetworkNew || b.pod != nil: // a pod's network is that of its first container
		return err
	}
	pods, err := network.OpenNamespace(oci.NetworkPath(b.spec))
	if err != nil {
		return err
	}
	defer pods.Close()
	b.interfaces, err = pods.CountInterfaces()
	return err
}

// checkPodOnHost refuses the host's network to a container whose pod has
// another: the machine has one alone.
func (b *bundle) checkPodOnHost() error {
	if b.pod == nil {
		return nil
	}
	hosts, err := b.pod.onHostNetwork()
	if err == nil && !hosts {
		err = fmt.Errorf("linux.namespaces: %w: its pod %s has a network of its own, which its containers share", oci.ErrHostNetwork, b.pod.id)
	}
	return err
}
