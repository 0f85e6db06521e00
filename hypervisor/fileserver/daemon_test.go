package fileserver

import (
	"slices"
	"testing"

	"kata-runtime/hypervisor/jail"
)

// What the host forbids is left out of the server's jail too.
func TestJailLeavesOut(t *testing.T) {
	without := []string{jail.PartKeyring, "net"}
	spec := confined(Options{SharedDir: "/shared", Jail: &jail.Options{Without: without}})
	if !slices.Equal(spec.Without, without) {
		t.Errorf("left out of the jail: %q, want %q", spec.Without, without)
	}
	if spec := confined(Options{SharedDir: "/shared"}); spec != nil {
		t.Errorf("unconfined, it has the jail %+v", spec)
	}
}
