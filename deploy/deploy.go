// Package deploy holds what Kubernetes' nodes and clusters are given: manifests
// and configurations. The installer in package node takes from here what is also
// there to be read and copied by hand.
package deploy

import _ "embed"

// Configuration is the runtime's configuration file for a node, configuration.toml.
//
//go:embed configuration.toml
var Configuration string
