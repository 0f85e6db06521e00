// Package sockets lets containers connect to unix sockets of the host that their
// bind mounts show. The share carries a socket's inode and not its listener,
// which is the host kernel's; so the agent listens on a socket of its own, of
// the same mode and owner, for each of the host's, shows it in the container in
// the place of the shared one, and relays each connection through vsock (package
// protocol/relay).
//
// A bind mount of a socket gets the agent's as its source. Over a socket in a
// bind-mounted directory the agent's is mounted, in the container's mount
// namespace, whenever the host tells of one. The guest's kernel itself takes
// such a mount away as soon as it notices that the host's file is another one
// or gone; what it remembers of a name is therefore renewed first, by asking
// for a link of that name that cannot be made.
package sockets
