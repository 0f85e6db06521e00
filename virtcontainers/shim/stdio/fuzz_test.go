package stdio

import (
	"path/filepath"
	"testing"
)

// FuzzParse: a name of a stream that is accepted is none, or leads to a path.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"", "/run/fifo", "file:///a?b", "binary:///bin/logger?id=1", "fifo:///a", "relative", "file://host/a", "%zz"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := parse(name)
		if err == nil && name != "" && got.scheme != schemePath && !filepath.IsAbs(got.path) {
			t.Errorf("%q: %+v", name, got)
		}
	})
}
