// Package podconfig reads what containerd's CRI plugin hands over as the options
// of a sandbox: kubelet's description of the pod. The generated package of CRI
// would link a gRPC server into each pod's process, for a dozen fields.
package podconfig

//go:generate protoc --go_out=. --go_opt=paths=source_relative podconfig.proto
