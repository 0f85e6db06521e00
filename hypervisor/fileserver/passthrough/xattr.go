package passthrough

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// hostName is the name under which the host keeps an attribute of the guest's. Those that
// the host's kernel, or overlayfs in it, would act on in the name of whoever may write
// them get a prefix; so do those that have the prefix already.
func (fs *FileSystem) hostName(name string) (string, error) {
	if name == "" || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
		return "", unix.ERANGE
	}
	switch {
	case fs.mapped(name):
		name = fs.options.XattrPrefix + name
		if len(name) > 255 {
			return "", unix.ERANGE
		}
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "security."), name == aclAccess, name == aclDefault:
	default:
		return "", unix.EOPNOTSUPP
	}
	return name, nil
}

// isLabel is whether an attribute is what security modules of the host go by. A
// guest reads them and does not change them.
func isLabel(name string) bool {
	name, ok := strings.CutPrefix(name, "security.")
	return ok && (name == "selinux" || name == "apparmor" || name == "ima" || name == "evm" || strings.HasPrefix(name, "SMACK64"))
}

func (fs *FileSystem) mapped(name string) bool {
	return strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "user.overlay.") ||
		strings.HasPrefix(name, fs.options.XattrPrefix)
}

// guestName is the reverse; false hides an attribute of the host's own.
func (fs *FileSystem) guestName(name string) (string, bool) {
	if inner, ok := strings.CutPrefix(name, fs.options.XattrPrefix); ok {
		return inner, fs.mapped(inner)
	}
	if fs.mapped(name) {
		return "", false
	}
	_, err := fs.hostName(name)
	return name, err == nil
}

// attribute runs f with the path in procfs of a node's descriptor, which leads to the
// file and no further.
func (fs *FileSystem) attribute(id uint64, name string, f func(path, name string) error) error {
	name, err := fs.hostName(name)
	if err != nil {
		return err
	}
	h, err := fs.hold(id)
	if err != nil {
		return err
	}
	defer fs.drop(h)
	return retry(func() error { return f(fs.procFD+itoa(h.fd), name) })
}

// GetXAttr implements fuse.RawFileSystem.
func (fs *FileSystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := 0
	err := fs.attribute(in.NodeId, name, func(path, name string) (err error) {
		n, err = unix.Getxattr(path, name, dest)
		return err
	})
	return uint32(max(n, 0)), status(err)
}

// SetXAttr implements fuse.RawFileSystem.
func (fs *FileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	if fs.options.ReadOnly {
		return fuse.EROFS
	}
	if int(in.Size) > len(data) {
		return fuse.EINVAL
	}
	if isLabel(name) {
		return fuse.EPERM
	}
	data = data[:in.Size]
	x := fs.expectChange(in.NodeId, unix.IN_ATTRIB)
	err := fs.attribute(in.NodeId, name, func(path, name string) error {
		set := func() error { return unix.Setxattr(path, name, data, int(in.Flags)) }
		if name == aclAccess && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
			return fs.creds.withoutSetID(fs.creds.gid, set)
		}
		return set()
	})
	x.done(err == nil)
	return status(err)
}

// RemoveXAttr implements fuse.RawFileSystem.
func (fs *FileSystem) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if fs.options.ReadOnly {
		return fuse.EROFS
	}
	if isLabel(name) {
		return fuse.EPERM
	}
	x := fs.expectChange(in.NodeId, unix.IN_ATTRIB)
	err := fs.attribute(in.NodeId, name, unix.Removexattr)
	x.done(err == nil)
	return status(err)
}

// ListXAttr implements fuse.RawFileSystem.
func (fs *FileSystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	h, err := fs.hold(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer fs.drop(h)
	all, err := listAttributes(fs.procFD + itoa(h.fd))
	if err != nil {
		return 0, status(err)
	}
	var names []byte
	for name := range bytes.SplitSeq(all, []byte{0}) {
		if guest, ok := fs.guestName(string(name)); ok && len(name) > 0 {
			names = append(append(names, guest...), 0)
		}
	}
	switch {
	case len(dest) == 0:
	case len(dest) < len(names):
		return uint32(len(names)), fuse.ERANGE
	default:
		copy(dest, names)
	}
	return uint32(len(names)), fuse.OK
}

func listAttributes(path string) ([]byte, error) {
	const usual, most = 1 << 10, 64 << 10
	for size := usual; ; size = most {
		buf := make([]byte, size)
		n, err := unix.Listxattr(path, buf)
		if err == unix.ERANGE && size < most || err == unix.EINTR {
			continue
		}
		return buf[:max(n, 0)], err
	}
}
