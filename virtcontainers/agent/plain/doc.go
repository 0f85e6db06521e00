// Package plain is what the owner of a pod and the process that reads what its guest
// says (package reader) tell each other, over a stream socket.
//
// The owner sends requests: a head, and the message of the agent's protocol as it goes
// to the guest. The process answers with a head and either an error, a number and a
// text, or the values of the answer, in an order and of kinds that both know before:
//
//	numbers       eight bytes
//	texts         their length in four bytes, and themselves
//	lists         how many there are in four bytes, and each of them
//
// Nothing in it says what comes next: there are no tags, types, optional parts or
// lengths of lengths, so that who has privileges to lose decodes nothing of a form
// which the guest has chosen. Numbers are little-endian. What an answer may hold in all
// is bounded by its method. The process might have been taken over:
// the owner takes nothing else than that.
package plain
