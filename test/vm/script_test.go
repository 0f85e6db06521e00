//go:build vm

package vm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// The scripts call the command line as a person does, each with a state
// directory of its own, $ROOT, and a bundle in $WORK/bundle that prints a line.
func TestCommandLine(t *testing.T) {
	bin := filepath.Join(harness.Repository(t), "bin")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("ROOT", filepath.Join(env.WorkDir, "root"))
			return bundle.Write(filepath.Join(env.WorkDir, "bundle"), bundle.Spec("/bin/echo", "hello from the guest"))
		},
	})
}
