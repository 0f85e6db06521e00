package virtcontainers

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An agent's error is text of a stranger.
func TestErrorsOfTheAgentAreSafeToPrint(t *testing.T) {
	long := strings.Repeat("x", 10000)
	err := agentErr(status.Error(codes.Unknown, "no such \x1b[2Jfile\nor \x07directory\u202e\u200b "+long))
	text := err.Error()
	if !strings.HasPrefix(text, "no such file\nor \\x07directory\\u{202e}\\u{200b} xxx") || len(text) > maxErrorText+30 {
		t.Errorf("%d bytes: %.60q", len(text), text)
	}
}
