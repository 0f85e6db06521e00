package machine

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/virtcontainers/config"
)

// The configuration knows each part of the jail.
func TestConfigurationHasEveryPart(t *testing.T) {
	if got, want := config.ConfineParts(), jail.Parts(); !slices.Equal(got, want) {
		t.Errorf("parts %q, want %q", got, want)
	}
}

// A vsock socket of the host's kernel has as large a buffer as its owner asks for, and what
// is in it is in no group's memory.
func TestTheReaderChangesNoSocketAndSendsNoDescriptor(t *testing.T) {
	allowed := readerJail(&jail.Options{}).SystemCalls.Allowed
	for name, call := range map[string]uintptr{"sendmsg": unix.SYS_SENDMSG, "sendto": unix.SYS_SENDTO, "setsockopt": unix.SYS_SETSOCKOPT, "shutdown": unix.SYS_SHUTDOWN} {
		if slices.Contains(allowed, call) {
			t.Errorf("it may call %s", name)
		}
	}
	if !slices.Contains(allowed, unix.SYS_RECVMSG) {
		t.Error("it cannot take the agent's connection")
	}
}
