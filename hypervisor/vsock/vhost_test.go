package vsock

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestClaimCID(t *testing.T) {
	var tried []uint64
	busy := 3
	cid, err := claimCID(t.Context(), func(cid uint64) error {
		tried = append(tried, cid)
		if busy--; busy >= 0 {
			return unix.EADDRINUSE
		}
		return nil
	})
	if err != nil || len(tried) != 4 || uint64(cid) != tried[3] {
		t.Errorf("claimed %d after %v, %v", cid, tried, err)
	}
	for _, cid := range tried {
		if cid < 3 || cid >= 1<<32-1 {
			t.Errorf("tried the reserved CID %d", cid)
		}
	}
	if _, err := claimCID(t.Context(), func(uint64) error { return unix.EADDRINUSE }); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("no CID is free: %v", err)
	}
	if _, err := claimCID(t.Context(), func(uint64) error { return unix.EPERM }); !errors.Is(err, unix.EPERM) {
		t.Errorf("not allowed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := claimCID(ctx, func(uint64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
