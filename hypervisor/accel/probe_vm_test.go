//go:build vm

package accel

import (
	"context"
	"errors"
	"os"
	"testing"
)

// TestTestVMEnds runs the test VM on the host's KVM, if it has one, whatever its
// CPU says: a KVM that cannot run it must yield an answer, not a hang. The
// test's own timeout is the judge.
func TestTestVMEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := testVM(ctx, "/dev/kvm")
	var problem *UnusableError
	if err != nil && !errors.As(err, &problem) {
		t.Errorf("got %v", err)
	}
	if _, statErr := os.Stat("/dev/kvm"); statErr != nil && err == nil {
		t.Error("a VM ran without KVM")
	}
	t.Logf("test VM: %v", err)
}
