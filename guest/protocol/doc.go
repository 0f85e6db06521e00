// Package protocol is the contract between the host and the guest: the ttrpc
// service of the agent (agent.proto), the vsock ports, the ready message and
// the header of the raw stdio streams. It holds no behaviour beyond encoding
// and decoding, and imports no other package of this module, so that both
// sides can depend on it.
package protocol

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative agent.proto
