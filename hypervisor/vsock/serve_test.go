package vsock

import (
	"slices"
	"testing"

	"kata-runtime/hypervisor/jail"
)

// What the host forbids is left out of the device's jail too.
func TestJailLeavesOut(t *testing.T) {
	without := []string{jail.PartKeyring, "net"}
	if spec := confinement(&jail.Options{Without: without}); !slices.Equal(spec.Without, without) {
		t.Errorf("left out of the jail: %q, want %q", spec.Without, without)
	}
	if spec := confinement(nil); spec != nil {
		t.Errorf("unconfined, it has the jail %+v", spec)
	}
}
