// Package guestmem owns the host's view of a guest's memory: it maps the
// regions that a VMM hands over, translates addresses of the guest and of the
// VMM into slices, and turns a fault on such memory into an error.
//
// Whoever holds a slice shares it with the guest, which can change it at any
// moment: copy a value out once, check the copy, use the copy.
package guestmem
