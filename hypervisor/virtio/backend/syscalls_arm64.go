package backend

// callsHere are those that older architectures have besides.
func callsHere() []uintptr { return nil }
