package server

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl is ioctl(2) of the kernel's random generator, with an argument or none.
type ioctl func(request uint, argument []byte) error

// stir gives the kernel's random generator the host's random bytes, and lets it
// begin anew with them: what comes from /dev/urandom and getrandom(2) from now on is
// this guest's alone.
func stir(entropy []byte) error {
	if len(entropy) == 0 {
		return nil
	}
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("stir the random generator: %w", err)
	}
	defer device.Close()
	return stirBy(entropy, func(request uint, argument []byte) error {
		var address unsafe.Pointer
		if len(argument) > 0 {
			address = unsafe.Pointer(&argument[0])
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), uintptr(request), uintptr(address)); errno != 0 {
			return errno
		}
		return nil
	})
}

func stirBy(entropy []byte, generator ioctl) error {
	// A struct rand_pool_info: the bits that count, the bytes that follow, and these.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(entropy)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(entropy)))
	if err := generator(unix.RNDADDENTROPY, append(info, entropy...)); err != nil {
		return fmt.Errorf("stir the random generator: add entropy: %w", err)
	}
	// Otherwise it would go on as before for up to a minute, and draw in each copy of a
	// guest the numbers that it draws in the others.
	if err := generator(unix.RNDRESEEDCRNG, nil); err != nil {
		return fmt.Errorf("stir the random generator: reseed: %w", err)
	}
	return nil
}
