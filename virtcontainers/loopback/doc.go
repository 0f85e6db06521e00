// Package loopback carries connections between loopback of the pod's network
// namespace on the host, which callers take for the pod's, and loopback of the
// guest. The agent's half is package guest/loopback; what passes between them
// is guest/protocol/relay.
//
// From the guest to the host: servers that were declared, and those alone, such
// as docker's DNS. The agent listens on their addresses and asks for a connection
// to one of them; the host makes it in the namespace. Nothing that comes from the
// guest is believed: a connection begins with the pod's token, its header is
// looked up among the services, and connections are bounded in number.
//
// From the host to the guest: a TCP connection that is made in the namespace to
// 127.0.0.1 or ::1, whatever its port, as kubectl port-forward does. A small BPF
// program at the namespace (sk_lookup) hands it to the supervisor's listener
// there, and the agent connects to a server in the guest. No server's port has to
// be known, nothing in the namespace is written to, and since the program hangs
// on a descriptor of the supervisor, it goes when that dies. A client that no
// server in the guest takes sees its connection reset, not refused: whether there
// is a server is known only when the kernel has accepted already.
package loopback
