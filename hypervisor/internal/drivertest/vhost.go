package drivertest

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of a vhost device, and of vhost-vsock.
const (
	vhostSetFeatures  = 0x4008af00
	vhostSetOwner     = 0xaf01
	vhostSetMemTable  = 0x4008af03
	vhostSetVringNum  = 0x4008af10
	vhostSetVringAddr = 0x4028af11
	vhostSetVringBase = 0x4008af12
	vhostSetVringKick = 0x4008af20
	vhostSetVringCall = 0x4008af21
	vsockSetRunning   = 0x4004af61
)

// NewVhostGuest plays VMM and guest for a kernel's vhost-vsock device, whose CID
// has been set. Its FrontEnd is nil, and it can be neither paused nor restarted.
func NewVhostGuest(t testing.TB, file *os.File, cid uint32, features uint64) *Guest {
	t.Helper()
	g := &Guest{CID: uint64(cid), t: t, Mem: NewMemory(t, 8<<20), features: features | FeatureVersion1}
	g.boot()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	set := func(request uintptr, argument []byte) {
		t.Helper()
		var errno unix.Errno
		err := raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&argument[0])))
		})
		if err != nil || errno != 0 {
			t.Fatalf("vhost ioctl %#x: %v, %v", request, err, errno)
		}
	}
	set(vhostSetOwner, make([]byte, 8))
	set(vhostSetFeatures, Put(g.features))
	table := Put(uint32(len(g.Mem.Regions)), uint32(0))
	for _, r := range g.Mem.Regions {
		table = append(table, Put(r.Guest, r.Size, r.User, uint64(0))...)
	}
	set(vhostSetMemTable, table)
	for i, q := range []*Queue{g.RX, g.TX} {
		index := uint32(i)
		g.lines[i] = line{eventFD(t), eventFD(t)}
		set(vhostSetVringNum, Put(index, uint32(q.Size)))
		set(vhostSetVringBase, Put(index, uint32(0)))
		set(vhostSetVringAddr, Put(index, uint32(0), g.Mem.User(q.Desc), g.Mem.User(q.Used), g.Mem.User(q.Avail), uint64(0)))
		withFD(t, g.lines[i].kick, func(fd uintptr) { set(vhostSetVringKick, Put(index, uint32(fd))) })
		withFD(t, g.lines[i].call, func(fd uintptr) { set(vhostSetVringCall, Put(index, uint32(fd))) })
	}
	set(vsockSetRunning, Put(uint32(1)))
	return g
}

func withFD(t testing.TB, file *os.File, f func(fd uintptr)) {
	t.Helper()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(f); err != nil {
		t.Fatal(err)
	}
}
