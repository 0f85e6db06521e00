// Package guesttest runs the guest's own tests in a VM: it builds the tests of
// package inside as the guest's /init, boots a kernel with it and reads the
// result from the console.
package guesttest
