package container

import (
	"errors"
	"fmt"
)

// The conditions that callers tell apart; errors of this package wrap one of
// them, or are what the kernel or libcontainer said.
var (
	// ErrNotFound: there is no container or process of that name.
	ErrNotFound = errors.New("does not exist")
	// ErrExists: the name is taken.
	ErrExists = errors.New("already exists")
	// ErrNotRunning: the operation needs a process that has not exited. The
	// text is what callers of OCI runtimes look for.
	ErrNotRunning = errors.New("container not running")
	// ErrInvalid: the request itself is wrong.
	ErrInvalid = errors.New("invalid request")
)

// errPaused is how a paused container refuses a new process.
var errPaused = fmt.Errorf("%w: the container is paused", ErrNotRunning)
