//go:build !lab

package harness

import "time"

// Patience bounds every wait, so that a hang is a failure with a report. It
// is far above what anything takes on a slow, loaded machine without hardware
// virtualization.
const Patience = 3 * time.Minute

// DialTimeout is for the configurations that tests write: the runtime's
// dial_timeout, in seconds.
const DialTimeout = 60
