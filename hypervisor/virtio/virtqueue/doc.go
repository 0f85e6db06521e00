// Package virtqueue owns the device's side of a split virtqueue (VIRTIO 1.2,
// section 2.7): it takes descriptor chains that a driver makes available,
// returns them as used, and keeps notifications of both directions to the
// necessary ones.
//
// The driver is not trusted. Every index, address and length is read once and
// checked before it is used; a chain longer than the queue, a loop, a nested
// table or a buffer outside guest memory is an error, after which the queue is
// not to be used again. The package allocates in proportion to the queue's size
// at most.
//
// Memory ordering: the indices that driver and device exchange are read and
// written by sync/atomic, which is sequentially consistent on every platform
// of Go, arm64 included. That covers the acquire and release that publishing
// entries needs, and also the full barrier between storing one side's event
// index and loading the other side's index.
package virtqueue
