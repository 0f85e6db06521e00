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
	err := plain(status.Error(codes.Unknown, "no such \x1b[2Jfile\nor \x07directory "+long))
	text := err.Error()
	if !strings.HasPrefix(text, "no such ?[2Jfile\nor ?directory xxx") || len(text) > maxErrorText+10 {
		t.Errorf("%d bytes: %.60q", len(text), text)
	}
}
