package monitor

// ServeUntil is Serve with another bound for the guest's silence.
var ServeUntil = serve
