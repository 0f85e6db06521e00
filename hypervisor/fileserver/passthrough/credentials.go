package passthrough

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// credentials are the server's own, and how a thread takes on those of a caller.
//
// A thread whose file system user is not root loses the effective capabilities that let
// it act on other people's files; it has them in its permitted set still and raises them
// again. So a new file belongs to the caller, while no permission is checked twice: the
// guest's kernel knows the caller's groups and this process does not.
type credentials struct {
	uid, gid uint32
	// privileged is whether there is anything to switch.
	privileged bool
	all        [2]unix.CapUserData
	noSetID    [2]unix.CapUserData
}

// read finds what this process may do.
func (c *credentials) read() error {
	c.uid, c.gid = uint32(unix.Geteuid()), uint32(unix.Getegid())
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &c.all[0]); err != nil {
		return fmt.Errorf("read the capabilities of this process: %w", err)
	}
	for i := range c.all {
		c.all[i].Effective = c.all[i].Permitted
	}
	c.noSetID = c.all
	c.noSetID[0].Effective &^= 1 << unix.CAP_FSETID
	const needed = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	c.privileged = c.uid == 0 && c.all[0].Permitted&needed == needed
	return nil
}

func setCapabilities(data *[2]unix.CapUserData) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&header, &data[0])
}

// as runs f on a thread whose new files belong to the caller.
func (c *credentials) as(uid, gid uint32, f func() error) error {
	if uid == c.uid && gid == c.gid {
		return f()
	}
	if !c.privileged || uid == ask || gid == ask {
		return unix.EPERM
	}
	runtime.LockOSThread()
	// It is itself again also when f panics, which somebody may recover from: see
	// guestmem.Guard. Otherwise the process ends.
	defer func() {
		if setFSUID(ask) != c.uid || setFSGID(ask) != c.gid {
			panic("passthrough: the file server's thread did not get its own user back")
		}
		runtime.UnlockOSThread()
	}()
	return c.switched(uid, gid, f)
}

func (c *credentials) switched(uid, gid uint32, f func() error) error {
	defer func() {
		// Root's user raises the capabilities again.
		if uid != c.uid {
			setFSUID(c.uid)
		}
		if gid != c.gid {
			setFSGID(c.gid)
		}
	}()
	if gid != c.gid {
		setFSGID(gid)
		if setFSGID(ask) != gid {
			return unix.EOVERFLOW // an id that this user namespace does not have
		}
	}
	if uid != c.uid {
		setFSUID(uid)
		if setFSUID(ask) != uid {
			return unix.EOVERFLOW
		}
		if err := setCapabilities(&c.all); err != nil {
			return err
		}
	}
	return f()
}

// ask is no id: the calls change nothing and return what holds.
const ask = ^uint32(0)

// setFSUID returns the former one.
func setFSUID(uid uint32) uint32 {
	r, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	return uint32(r)
}

func setFSGID(gid uint32) uint32 {
	r, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
	return uint32(r)
}

// withoutSetID runs f as somebody whose change of a file ends its set-user-id and
// set-group-id bits, and who is of the group.
func (c *credentials) withoutSetID(group uint32, f func() error) error {
	if c.all[0].Effective&(1<<unix.CAP_FSETID) == 0 {
		return f()
	}
	runtime.LockOSThread()
	if err := setCapabilities(&c.noSetID); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { // as in as
		if group != c.gid {
			setFSGID(c.gid)
		}
		if err := setCapabilities(&c.all); err != nil || setFSGID(ask) != c.gid {
			panic("passthrough: the file server's thread did not get its capabilities back")
		}
		runtime.UnlockOSThread()
	}()
	if group != c.gid {
		setFSGID(group)
	}
	return f()
}

// changed runs f, which changes the content of the file fd. Where kill is set, that is
// done in the name of somebody whose changes end set-user-id and set-group-id bits: as
// everywhere, the latter only where the group may execute the file.
func (c *credentials) changed(fd int, kill bool, f func() error) error {
	if !kill {
		return f()
	}
	var st unix.Statx_t
	if err := statMore(fd, unix.STATX_MODE|unix.STATX_GID, &st); err != nil {
		return err
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return f()
	}
	return c.withoutSetID(st.Gid, f)
}
