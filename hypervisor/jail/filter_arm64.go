package jail

import "golang.org/x/sys/unix"

const (
	architecture = unix.AUDIT_ARCH_AARCH64
	// foreignNumbers: there is no second ABI with numbers of its own.
	foreignNumbers = 0
)

// hostileHere are those that only this architecture has.
func hostileHere() []uintptr { return nil }
