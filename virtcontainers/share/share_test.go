package share_test

import (
	"strings"
	"testing"

	"kata-runtime/virtcontainers/share"
)

func TestNamesAreNewAndShort(t *testing.T) {
	for _, id := range []string{"", "box", strings.Repeat("x", 1024)} {
		a, b := share.NewName(id), share.NewName(id)
		if a == b {
			t.Errorf("container %.20q has the directory %q twice", id, a)
		}
		if len(a) > 255 {
			t.Errorf("a name of %d bytes for an id of %d", len(a), len(id))
		}
		if !strings.HasPrefix(a, id[:min(len(id), 3)]) {
			t.Errorf("%q does not tell of container %.20q", a, id)
		}
	}
}
