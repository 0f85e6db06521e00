// Package passt starts passt, a network in user space: a VM that is connected
// to it is on the host's network without an interface of the host's being
// touched. What the VM sends, passt sends from sockets of its own.
package passt
