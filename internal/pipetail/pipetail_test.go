package pipetail_test

import (
	"strings"
	"testing"

	"kata-runtime/internal/pipetail"
)

func TestTheEndIsKept(t *testing.T) {
	tail, writer, err := pipetail.New()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close() // a process that was left behind
	if _, err := writer.WriteString(strings.Repeat("noise ", 10000) + "last words"); err != nil {
		t.Fatal(err)
	}
	got := tail.Finish()
	if !strings.HasSuffix(got, "noise last words") || len(got) != pipetail.Size {
		t.Errorf("kept %d bytes that end %q", len(got), got[max(0, len(got)-20):])
	}
}
