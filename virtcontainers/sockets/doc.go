// Package sockets is the host's half of relayed unix sockets: it finds the
// sockets that a container's bind mounts show, tells the agent of them, and
// connects to them for clients in the guest. The agent's half is package
// guest/sockets; what passes between them is guest/protocol/relay.
//
// A socket is found by the descriptor of the mount that the command cloned in
// its caller's namespace, and in a directory by a lookup that stays beneath that
// descriptor and follows no link, made anew for each connection: a server that
// replaces its socket is reached again, and no path of the guest's leads
// anywhere else. In directories, only sockets with a listener on the host are
// relayed: one that a container made, through the share, has its listener in
// the guest, and stays as it is.
//
// Nothing that comes from the guest is believed: a connection begins with the
// pod's token, and names a container's bind mount and a socket that was found
// there. The rest of what a guest can do is bounded: connections and
// half-open ones by number, memory by two frames for each connection.
package sockets
