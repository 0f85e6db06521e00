package fileserver

import (
	"slices"
	"testing"

	"kata-runtime/hypervisor/jail"
)

// What the host forbids is left out of the server's jail too, and the limit of open files
// is the one that this host has room for.
func TestServersJail(t *testing.T) {
	without := []string{jail.PartKeyring, "net"}
	spec := confined(Options{SharedDir: "/shared", Jail: &jail.Options{Without: without}, limit: 1000})
	if spec.MaxFiles != 1000 {
		t.Errorf("it may have %d files open", spec.MaxFiles)
	}
	if !slices.Equal(spec.Without, without) {
		t.Errorf("left out of the jail: %q, want %q", spec.Without, without)
	}
	if spec := confined(Options{SharedDir: "/shared"}); spec != nil {
		t.Errorf("unconfined, it has the jail %+v", spec)
	}
}
