package monitor

import (
	"log/slog"
	"time"

	"kata-runtime/virtcontainers/store"
)

// ServeUntil is Serve with another bound for the guest's silence.
func ServeUntil(entry *store.Entry, sandbox Sandbox, owner Owner, silence time.Duration, log *slog.Logger) (*Server, error) {
	return serve(entry, sandbox, owner, silence, log)
}
