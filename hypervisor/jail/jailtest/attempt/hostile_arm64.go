package attempt

// hostileHere are those that only this architecture has: none.
func hostileHere() map[string]func() error { return nil }
