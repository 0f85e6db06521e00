package pod

import (
	"fmt"
	"slices"
)

// state is where a container is in its life: see the package comment.
type state int

const (
	// reserving: its keeper claims what it needs; the work can be cancelled.
	reserving state = iota + 1
	// reserved: its id is taken, nothing else is done.
	reserved
	// creating: its creation is under way; the work can be cancelled.
	creating
	// live: others can reach it, and add processes.
	live
	// ended: its first process has ended; no process is added any more.
	ended
	// leaving: its keeper lets go of it.
	leaving
	// gone: nothing is left of it.
	gone
)

func (s state) String() string {
	names := []string{"none", "reserving", "reserved", "creating", "live", "ended", "leaving", "gone"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("state %d", int(s))
	}
	return names[s]
}

// next are the states that may follow.
func (s state) next() []state {
	switch s {
	case reserving:
		return []state{reserved, leaving}
	case reserved:
		return []state{creating, leaving}
	case creating:
		return []state{live, leaving}
	case live:
		return []state{ended}
	case ended:
		return []state{leaving}
	case leaving:
		return []state{gone}
	case gone:
	}
	return nil
}

// reachable tells whether others find the container.
func (s state) reachable() bool { return s == live || s == ended }

// move changes the container's state, and tells whether that is one that may
// follow. The caller holds the pod's mu.
func (c *Container) move(to state) bool {
	if !slices.Contains(c.state.next(), to) {
		return false
	}
	c.state = to
	return true
}
