//go:build lab

package harness

import "time"

// Patience bounds every wait, so that a hang is a failure with a report. In the
// lab a VM is emulated by a machine that is emulated itself.
const Patience = 10 * time.Minute

// DialTimeout is the same for the runtime, in seconds: its dial_timeout.
const DialTimeout = 500
