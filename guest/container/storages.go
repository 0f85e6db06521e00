package container

import (
	"context"
	"sync"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/storage"
)

// sharedStorages are the storages that several containers of the pod can name.
// The zero value is ready for use.
type sharedStorages struct {
	mu    sync.Mutex // guards users
	users map[string]*storageUsers
}

// storageUsers counts the containers that have a shared storage.
type storageUsers struct {
	containers int
	keep       bool // also without a container
}

// mount mounts a storage, unless it is a shared one that is mounted already.
func (s *sharedStorages) mount(ctx context.Context, request *protocol.Storage) error {
	if !request.GetShared() {
		return storage.Mount(ctx, request)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	users, mounted := s.users[request.GetMountPoint()]
	if !mounted {
		if err := storage.Mount(ctx, request); err != nil {
			return err
		}
		if s.users == nil {
			s.users = map[string]*storageUsers{}
		}
		users = &storageUsers{}
		s.users[request.GetMountPoint()] = users
	}
	users.containers++
	users.keep = users.keep || request.GetKeep()
	return nil
}

// unmount undoes mount for one container.
func (s *sharedStorages) unmount(mountPoint string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	users, shared := s.users[mountPoint]
	if shared && (users.containers > 1 || users.keep) {
		users.containers--
		return nil
	}
	if err := storage.Unmount(mountPoint); err != nil {
		return err
	}
	delete(s.users, mountPoint)
	return nil
}
