//go:build tools

// Package critest names what the pinned critest is made of: it is a test program,
// which no tool directive can name.
package critest

import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
