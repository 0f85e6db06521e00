//go:build vm

package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// The scripts call the command line as a person does, each with a state
// directory of its own, $ROOT, and a bundle in $WORK/bundle that prints a line.
// They share one container that runs, $SHARED in the state directory
// $SHAREDROOT, so that most need no VM of their own; they leave it as it is.
func TestCommandLine(t *testing.T) {
	h := harness.New(t)
	shared, pidFile := h.ID(), h.File("pid")
	spec := bundle.Spec("/bin/sh", "-c", "trap : USR1; echo ready; while :; do sleep 100000 & wait $!; kill $!; done")
	spec.Annotations = map[string]string{"org.example.key": "a value"}
	start(h, spec, shared, pidFile)
	bin := filepath.Join(harness.Repository(t), "bin")
	t.Run("script", func(t *testing.T) { // ends when all of them have
		testscript.Run(t, testscript.Params{
			Dir: "testdata/script",
			Setup: func(env *testscript.Env) error {
				env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
				env.Setenv("BIN", bin)
				env.Setenv("ROOT", filepath.Join(env.WorkDir, "root"))
				env.Setenv("SHAREDROOT", h.Root)
				env.Setenv("SHARED", shared)
				env.Setenv("SHAREDPID", strconv.Itoa(number(t, pidFile)))
				return bundle.Write(filepath.Join(env.WorkDir, "bundle"), bundle.Spec("/bin/echo", "hello from the guest"))
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"silent": silent, "reap": reap},
		})
	})
	h.Must("delete", "--force", shared)
	h.Reap(number(t, pidFile))
}

// silent runs a command whose process keeps its streams open, and which has
// nothing to say itself: silent COMMAND [ARGUMENT...].
func silent(ts *testscript.TestScript, neg bool, args []string) {
	code := "0"
	if neg {
		code = "[1-9]*"
	}
	script := `"$@" </dev/null >silent.out 2>&1; case $? in ` + code + `) ;; *) cat silent.out; exit 1;; esac`
	ts.Check(ts.Exec("sh", append([]string{"-c", script, "sh"}, args...)...))
}

// reap waits for the stand-in in a pid file, as a caller does, and compares its
// exit code: reap PIDFILE CODE.
func reap(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(ts.ReadFile(args[0]))
	ts.Check(err)
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	ts.Check(err)
	if got := strconv.Itoa(status.ExitStatus()); got != args[1] {
		ts.Fatalf("exit code %s (%#x), want %s", got, uint32(status), args[1])
	}
}
