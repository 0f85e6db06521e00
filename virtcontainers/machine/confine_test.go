package machine

import (
	"slices"
	"testing"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/virtcontainers/config"
)

// The configuration knows each part of the jail.
func TestConfigurationHasEveryPart(t *testing.T) {
	if got, want := config.ConfineParts(), jail.Parts(); !slices.Equal(got, want) {
		t.Errorf("parts %q, want %q", got, want)
	}
}
