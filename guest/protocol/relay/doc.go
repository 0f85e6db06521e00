// Package relay is what both ends of a relayed unix socket do: the header that
// opens a connection through vsock, and the copying afterwards. Like the rest of
// the protocol it imports no other package of this module.
//
// One vsock connection carries both directions, in frames: the end of each
// direction is said in it, since half-closing is not reliable on every
// transport, and so an end is never mistaken for a failure. A frame is a length
// in four bytes, big-endian, and as many bytes of data; two lengths have a
// meaning of their own:
//
//	0            the sender's local socket has ended its output
//	0xffffffff   the sender's local socket takes no more input
//
// Nothing is buffered beyond one frame per direction: who does not read holds
// up who writes, as a socket does. Descriptors that are sent along
// (SCM_RIGHTS) are dropped.
package relay
