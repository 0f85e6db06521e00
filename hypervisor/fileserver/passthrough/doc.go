// Package passthrough serves a directory of the host to a guest, as the file system
// behind a FUSE protocol server.
//
// It works by descriptors and never by a path that the guest can steer. A file that the
// guest knows is a node: an O_PATH descriptor, or, beyond a bound and on mounts that the
// host may take away at any time, what it can be opened by again: the kernel's file
// handle or, where the file system has none, its name in the node of its directory. A
// node is one inode as one mount shows it, so that hard links are one node and mounts do
// not clash.
//
// What the guest's kernel decides, and what is decided here:
//
//   - Permissions are the guest's kernel's (default_permissions, FUSE_POSIX_ACL). New
//     objects belong to the caller's user and group, and are made with all capabilities
//     of the server: the guest's kernel has checked the caller's groups, which this
//     process does not know.
//   - What ends set-user-id bits and file capabilities is told by the guest's kernel
//     (FUSE_HANDLE_KILLPRIV_V2) and done by the host's.
//   - Locks are the host's. A lock owner of the guest is one open file description.
//   - trusted.* attributes and overlayfs's own are kept under a prefix in user.*, so
//     that no overlayfs of the host trusts what a guest wrote.
//   - Only regular files and directories are opened, whatever the guest asks for.
//
// The process has the umask 0, which New sets, and a procfs that shows it. It needs
// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETUID, SETGID, MKNOD and SETFCAP in its permitted
// set to act for every user of a guest. With DAC_READ_SEARCH it uses file handles; a
// confined process goes without both, since a handle opens any file of the file system.
//
// Requests come from as many goroutines as the caller likes, and SetLkw lasts as long as
// the lock is held by others: it needs a goroutine of its own.
package passthrough
