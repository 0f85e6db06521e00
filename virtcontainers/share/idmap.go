package share

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// NewUserNamespace makes a user namespace with these mappings, for MapIDs. No
// process is in it.
func NewUserNamespace(uids, gids []syscall.SysProcIDMap) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a user namespace for an id-mapped mount: %w", err)
		}
	}()
	// A traced child stops before it has run anything. Its tracer is a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids, Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = child.Kill() // fails only when it has ended
		_, _ = child.Wait()
	}()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Pid))
}

// MapIDs makes the detached tree show the owners that users, a user namespace,
// maps those of its files to (mount_setattr(2) with MOUNT_ATTR_IDMAP). With
// recursive the mounts below do so too.
func MapIDs(tree, users *os.File, recursive bool) error {
	var flags uint
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	err := setAttr(tree, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())})
	if err != nil {
		return fmt.Errorf("map ids (its file system must be able to): %w", err)
	}
	return nil
}
