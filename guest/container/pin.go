package container

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// PinSources has the agent mount what containers have of a share before they do. Each
// mount of the host within a share is a file system of its own, which the guest's kernel
// mounts by itself as somebody goes there, and for each mount namespace anew: without
// that, an agent that goes there later has other inodes than the container, and nothing
// that it does is seen there.
func (r *Runtime) PinSources(share string) { r.pinned.Store(share) }

// pinnedSources are the container's mounts of the share.
func (r *Runtime) pinnedSources(spec *specs.Spec) []string {
	share, _ := r.pinned.Load().(string)
	if share == "" {
		return nil
	}
	var sources []string
	for _, m := range spec.Mounts {
		if strings.HasPrefix(m.Source, share+"/") {
			sources = append(sources, m.Source)
		}
	}
	return sources
}

// pin mounts them. What is wrong with one the container's creation says.
func (r *Runtime) pin(spec *specs.Spec) {
	for _, source := range r.pinnedSources(spec) {
		if fd, err := unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
		}
	}
}

// unpin unmounts them: with them goes what the guest remembers, and the host has open.
func (r *Runtime) unpin(spec *specs.Spec) {
	for _, source := range r.pinnedSources(spec) {
		_ = unix.Unmount(source, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // one file is no mount
	}
}
