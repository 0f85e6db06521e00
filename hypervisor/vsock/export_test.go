package vsock

import (
	"context"
	"log/slog"
)

// OpenRole opens a Host whose process plays another role than the device.
func OpenRole(ctx context.Context, role string, settings any, log *slog.Logger) (Host, error) {
	return startUser(ctx, Options{Log: log}, role, settings)
}
