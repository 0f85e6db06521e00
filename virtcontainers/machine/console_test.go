package machine

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLastWordsEndWithThePanic(t *testing.T) {
	var lines []string
	for i := range 30 {
		lines = append(lines, strconv.Itoa(i))
	}
	if got := lastWords(lines); !slices.Equal(got, lines[30-consoleLines:]) {
		t.Errorf("without a panic: %q", got)
	}
	lines[4] = "[ 1.0] Kernel panic - not syncing"
	if diff := cmp.Diff([]string{"0", "1", "2", "3", lines[4]}, lastWords(lines)); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
	if got := lastWords(nil); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}
