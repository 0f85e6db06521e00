package machine

import (
	"context"
	"errors"
	"os"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/fileserver"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtiofsd"
	"kata-runtime/virtcontainers/config"
)

// shareTag is the name by which the guest mounts the pod's share.
const shareTag = "kata"

// rootFileSystems are the containers' in the share, as package share has them.
const rootFileSystems = "*/rootfs"

// fileServer is a process that serves the share to the guest: virtiofsd, or ours.
type fileServer interface {
	PID() int
	Socket() *os.File
	Wait(ctx context.Context) error
	Stop() error
}

// startShare makes the device that the guest mounts: virtiofs, or 9p where that is
// configured, or where no daemon is named and none is installed. Any other trouble
// with virtiofsd is an error: 9p takes away walls.
func (m *Machine) startShare(ctx context.Context, spec Spec) (_ *hypervisor.Share, err error) {
	settings := spec.Config.Hypervisor
	device := &hypervisor.Share{ID: "share0", Tag: shareTag}
	if settings.SharedFS == config.SharedFS9P {
		device.Directory = spec.ShareDir
		return device, nil
	}
	m.daemon, err = m.startDaemon(ctx, spec)
	switch {
	case fallsBackTo9P(settings, err):
		spec.Log.Warn("files are served by 9p, which is slower", "reason", err)
		device.Directory = spec.ShareDir
		return device, nil
	case err != nil:
		return nil, err
	}
	device.Socket = m.daemon.Socket()
	return device, nil
}

// fallsBackTo9P tells whether files are served by 9p after an error of virtiofsd's.
func fallsBackTo9P(settings config.Hypervisor, err error) bool {
	return errors.Is(err, virtiofsd.ErrNotFound) && settings.SharedFS == config.SharedFSAuto && settings.VirtioFSDaemon == ""
}

// startDaemon starts the configured file server. None is a nil interface.
func (m *Machine) startDaemon(ctx context.Context, spec Spec) (fileServer, error) {
	settings := spec.Config.Hypervisor
	if settings.VirtioFSDaemon == config.FileServer {
		m.daemonName = fileserver.Name
		if len(settings.VirtioFSExtraArgs) > 0 {
			spec.Log.Warn("virtio_fs_extra_args are virtiofsd's, and not used", "advice", `set virtio_fs_daemon to "" or to virtiofsd's path`)
		}
		watchUser := 0
		if m.user != nil {
			watchUser = m.user.ID
		}
		daemon, err := fileserver.Start(ctx, fileserver.Options{
			Program: m.program, SharedDir: spec.ShareDir, Cache: settings.VirtioFSCache, Private: []string{rootFileSystems}, Steady: true,
			Notify: settings.VirtioFSNotify, NotifyUser: watchUser,
			Count: spec.Config.Runtime.Debug, Jail: m.daemonJail(spec.Config), Starter: m.starter, Log: spec.Log,
		})
		if err != nil {
			return nil, err
		}
		return daemon, nil
	}
	m.daemonName = "virtiofsd"
	daemon, err := virtiofsd.Start(ctx, virtiofsd.Options{
		Path: settings.VirtioFSDaemon, SharedDir: spec.ShareDir, Cache: settings.VirtioFSCache,
		ExtraArgs: settings.VirtioFSExtraArgs, SocketDir: spec.Dir, CacheDir: jail.DefaultDir, Jail: m.daemonJail(spec.Config), Starter: m.starter, Log: spec.Log,
	})
	if err != nil {
		return nil, err
	}
	return daemon, nil
}

// Share tells how the guest mounts the pod's shared directory.
func (m *Machine) Share() *protocol.Share {
	share := &protocol.Share{Tag: shareTag, Fstype: "virtiofs", MountPoint: protocol.ShareMountPoint}
	if m.daemonName == fileserver.Name {
		share.FileLimit = fileserver.FileLimit
	}
	if m.daemon == nil {
		share.Fstype = "9p"
		share.Options = []string{"trans=virtio", "version=9p2000.L", "msize=512000", "cache=mmap", "access=any"}
	}
	return share
}
