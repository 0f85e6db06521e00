package attempt

import "golang.org/x/sys/unix"

// hostileHere are those that only this architecture has.
func hostileHere() map[string]func() error {
	return map[string]func() error{
		"use ports":                func() error { return unix.Iopl(3) },
		"permit itself ports":      func() error { return unix.Ioperm(0x80, 1, 1) },
		"change its segment table": func() error { return call(unix.SYS_MODIFY_LDT, 0, 0, 0) },
		"use a library of old":     func() error { p := []byte{'/', 0}; return call(unix.SYS_USELIB, pointer(&p[0]), 0, 0) },
		"call by numbers of x32":   func() error { return call(0x40000000+unix.SYS_GETPID, 0, 0, 0) },
	}
}
