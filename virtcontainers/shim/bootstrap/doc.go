// Package bootstrap is the command line of containerd-shim-kata-v2: how
// containerd, or CRI-O, starts the shim of a pod, asks what it can do, and cleans
// up after one that has died. The task service itself is given by the program
// (Program.Serve).
//
//	containerd ── start, options on stdin ─► start ── forks ──► server: Serve on fd 3
//	           ◄─ address on stdout ─────────┘   └─ handover, fd 4 ─►┘
//	           ── ttrpc at the address ─────────────────────────────►┘
//	           ── delete, once the server is dead ─► answer on stdout
//
// Callers differ in what they write to standard input and take as an answer:
// containerd up to 2.2 writes the runtime's options, later ones BootstrapParams,
// CRI-O nothing. The raw address is understood by all of them; those that have
// sent BootstrapParams are answered with a BootstrapResult of version 3, which
// the others refuse. Nothing else may be written: callers read both standard
// streams as one answer, until nobody has them open.
//
// # One server for a pod
//
// The socket's name is made from containerd's address, its namespace and the id
// of the pod's sandbox. A container that joins a pod finds the pod's server there,
// a second start for the same id likewise. What the server is told beyond its
// command line, such as the options, it reads from fd 4; the same pipe is the
// lease of the command that forked it: when that ends before it has answered its
// caller, nobody will ever know of the server, and it ends.
//
// # Mounts
//
// A server has a mount namespace of its own, which is a slave of its caller's:
// what is mounted on the host later shows in it, and what the server mounts (a
// container's root file system on BUNDLE/rootfs, the share) shows nowhere else.
// So nothing of it is ever left on the host: all of it goes with the last process
// of the namespace, and containerd, which unmounts and removes BUNDLE/rootfs in
// its own namespace, finds an empty directory there. delete has nothing to
// unmount for the same reason.
//
// Mounts of the host only arrive where they are shared, as systemd makes them.
// Where they are private, the server sees those alone that were there when it
// began. For what a caller mounts later and names by a path (a volume of a
// container that joins), Server.HostMounts is the caller's mount namespace: there,
// with namespace.WithMounts, paths mean what they mean for the caller, and
// open_tree(2) makes a detached copy that can be attached in the server's own.
package bootstrap
