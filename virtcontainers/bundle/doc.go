// Package bundle turns an OCI bundle and its caller's surroundings (mount
// namespace, resource limits, host name, the namespaces that paths lead to) into
// what a pod is asked for: the guest's view of the specification, and the mounts
// that it needs, open. It knows neither who asks nor how the request travels.
//
// Read comes first. Then Prepare decides what the container is, given the pod that
// it joins; OpenTrees clones its mounts; Encode gives the specification's final
// form. All of it runs in the process that the caller has started: what a path
// means is decided in the caller's mount namespace.
package bundle
