package jail

import (
	"path/filepath"
	"testing"
)

// FuzzParseList: what a loader says of libraries, and of threads the kernel, whose
// names a process chooses.
func FuzzParseList(f *testing.F) {
	f.Add([]byte("\tlibz.so.1 => /lib/libz.so.1 (0x00007f)\n\tlinux-vdso.so.1 (0x00007ffd)\n"))
	f.Add([]byte("\tlibgone.so.1 => not found\n"))
	f.Add([]byte("Name:\tNSpid\nNSpid:\t7\t1\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		files, err := parseList(out)
		for _, file := range files {
			if err == nil && !filepath.IsAbs(file) {
				t.Errorf("%q", file)
			}
		}
		innermost(out)
	})
}
