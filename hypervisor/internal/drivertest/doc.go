// Package drivertest plays the other side of a vhost-user vsock device in
// tests: guest memory, a driver's virtqueues, a VMM's protocol messages and a
// guest's vsock packets. It is written from the specifications alone and shares
// no code with the packages under test, so that a misreading shows.
package drivertest
