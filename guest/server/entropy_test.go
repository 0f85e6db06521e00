package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/loopback"
	"kata-runtime/guest/protocol"
	"kata-runtime/guest/sockets"
)

// copyOfAGuest is a random generator in the state in which a guest was saved: what it draws
// depends on that and on what it has begun anew with. The kernel's takes in interrupts too,
// so that two copies which are not stirred differ in the end, and nobody would see it.
type copyOfAGuest struct {
	pool, seed []byte
}

func (g *copyOfAGuest) ioctl(request uint, argument []byte) error {
	switch request {
	case unix.RNDADDENTROPY:
		if len(argument) < 8 {
			return unix.EFAULT
		}
		bits, size := binary.NativeEndian.Uint32(argument), binary.NativeEndian.Uint32(argument[4:])
		if int(size) != len(argument)-8 || bits != 8*size {
			return unix.EINVAL
		}
		g.pool = append(g.pool, argument[8:]...)
	case unix.RNDRESEEDCRNG:
		g.seed = slices.Clone(g.pool)
	default:
		return unix.ENOTTY
	}
	return nil
}

// Copies of one guest draw the same numbers, until each has begun anew with its own.
func TestStirredCopiesDrawOtherNumbers(t *testing.T) {
	var one, other copyOfAGuest
	for i, g := range []*copyOfAGuest{&one, &other} {
		if err := stirBy(bytes.Repeat([]byte{byte(i + 1)}, 64), g.ioctl); err != nil {
			t.Fatal(err)
		}
	}
	if len(one.seed) != 64 || len(other.seed) != 64 || bytes.Equal(one.seed, other.seed) {
		t.Errorf("they draw from %x and %x", one.seed, other.seed)
	}
	for _, request := range []uint{unix.RNDADDENTROPY, unix.RNDRESEEDCRNG} {
		err := stirBy([]byte("x"), func(r uint, _ []byte) error {
			if r == request {
				return unix.EPERM
			}
			return nil
		})
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("request %#x fails: %v", request, err)
		}
	}
}

// A guest is stirred before there is anything of its pod, and has no pod where that fails.
func TestASandboxIsStirredFirst(t *testing.T) {
	for _, fails := range []error{nil, unix.EIO} {
		s := newSandbox(Config{Log: slog.New(slog.DiscardHandler), Network: noNetwork{}}, nil, sockets.New(slog.New(slog.DiscardHandler), t.TempDir(), nil))
		s.loopback = loopback.NewServices(slog.New(slog.DiscardHandler), nil)
		var given [][]byte
		s.stir = func(entropy []byte) error {
			if s.created || len(s.shares) > 0 || s.modules != nil {
				t.Error("there is something of its pod already")
			}
			given = append(given, entropy)
			return fails
		}
		_, err := s.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "pod", Restored: true, Entropy: []byte("random")})
		s.loopback.Close()
		if len(given) != 1 || string(given[0]) != "random" {
			t.Errorf("it is stirred by %q", given)
		}
		if !errors.Is(err, fails) || s.created != (fails == nil) {
			t.Errorf("created %t, %v", s.created, err)
		}
	}
}
