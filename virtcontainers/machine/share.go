package machine

import (
	"context"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/virtiofsd"
	"kata-runtime/virtcontainers/config"
)

// shareTag is the name by which the guest mounts the pod's share.
const shareTag = "kata"

// startShare makes the device that the guest mounts: virtiofs where there is a
// virtiofsd, otherwise 9p.
func (m *Machine) startShare(ctx context.Context, spec Spec) (_ *hypervisor.Share, err error) {
	settings := spec.Config.Hypervisor
	share := &hypervisor.Share{ID: "share0", Tag: shareTag}
	if !useVirtioFS(settings) {
		share.Directory = spec.ShareDir
		return share, nil
	}
	m.daemon, err = virtiofsd.Start(ctx, virtiofsd.Options{
		Path: settings.VirtioFSDaemon, SharedDir: spec.ShareDir, Cache: settings.VirtioFSCache,
		ExtraArgs: settings.VirtioFSExtraArgs, SocketDir: spec.Dir, Starter: m.starter, Log: spec.Log,
	})
	if err != nil {
		return nil, err
	}
	share.Socket = m.daemon.Socket()
	return share, nil
}

// useVirtioFS resolves shared_fs.
func useVirtioFS(settings config.Hypervisor) bool {
	switch settings.SharedFS {
	case config.SharedFSVirtioFS:
		return true
	case config.SharedFS9P:
		return false
	default:
		_, err := virtiofsd.Find(settings.VirtioFSDaemon)
		return err == nil
	}
}

// Share tells how the guest mounts the pod's shared directory.
func (m *Machine) Share() *protocol.Share {
	share := &protocol.Share{Tag: shareTag, Fstype: "virtiofs", MountPoint: protocol.ShareMountPoint}
	if m.daemon == nil {
		share.Fstype = "9p"
		share.Options = []string{"trans=virtio", "version=9p2000.L", "msize=512000", "cache=mmap", "access=any"}
	}
	return share
}
