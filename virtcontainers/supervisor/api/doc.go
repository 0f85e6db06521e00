// Package api is the supervisor's private ttrpc service, generated from
// supervisor.proto.
package api

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative supervisor.proto
