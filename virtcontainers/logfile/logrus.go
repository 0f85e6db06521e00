package logfile

import (
	"log/slog"
	"strings"
	"time"
)

// Logrus is a ReplaceAttr of slog.HandlerOptions that gives attributes the form
// that container managers parse, that of logrus: a level in lower case, a time
// in RFC 3339.
func Logrus(groups []string, a slog.Attr) slog.Attr {
	switch {
	case len(groups) > 0:
	case a.Key == slog.LevelKey:
		return slog.String(a.Key, strings.ToLower(a.Value.String()))
	case a.Key == slog.TimeKey:
		return slog.String(a.Key, a.Value.Time().Format(time.RFC3339))
	}
	return a
}
