//go:build vm && full

package programs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program is a script of testdata. A shell runs it in a privileged container, with
// directories of its own in memory at /tmp, /run, /var/lib and /var/log, one of the
// host's at /volume, and a root file system that is read-only. It fails where something
// does not work, and says by what it prints what did. They run in the order of their
// names, one after the other.
type program struct {
	name, script string
	// want is its standard output, which comments at its top list.
	want string
	// modules says that the kernel needs them: a comment, too.
	modules bool
}

func list(t *testing.T) []program {
	t.Helper()
	files, err := filepath.Glob("testdata/*.sh")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d programs, %v", len(files), err)
	}
	programs := make([]program, len(files))
	for i, file := range files {
		script, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := program{name: strings.TrimSuffix(filepath.Base(file), ".sh"), script: string(script)}
		for line := range strings.Lines(p.script) {
			if text, ok := strings.CutPrefix(line, "# prints: "); ok {
				p.want += text
			}
			p.modules = p.modules || line == "# needs modules\n"
		}
		if p.want == "" {
			t.Fatalf("%s does not say what it prints", file)
		}
		programs[i] = p
	}
	return programs
}
