package vsock

import (
	"context"
	"log/slog"
	"testing"

	"kata-runtime/hypervisor/child"
)

// OpenRole opens a Host whose process plays another role than the device.
func OpenRole(ctx context.Context, role string, settings any, log *slog.Logger) (Host, error) {
	return startUser(ctx, Options{Log: log}, role, settings)
}

// StartRole starts the process alone, in another role than the device, for a test.
func StartRole(t testing.TB, o Options, role string, settings any) (*child.Helper, error) {
	t.Helper()
	u, err := startUser(t.Context(), o, role, settings)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = u.Close() })
	return u.Helper(), nil
}
