//go:build vm && lab

package accel

import "testing"

// The lab's machine has KVM, and it is found without being asked for.
func TestKVMIsFound(t *testing.T) {
	if got, err := Select(t.Context(), Auto); err != nil || got.Name != KVM || got.Warning {
		t.Errorf("got %+v, %v", got, err)
	}
}
