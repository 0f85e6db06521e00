package cmdline_test

import (
	"os"
	"os/exec"
	"testing"

	"kata-runtime/virtcontainers/cmdline"
)

func TestSet(t *testing.T) {
	if os.Getenv("CMDLINE_TEST") == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestSet$", "-test.v") // its own, not this process's
		cmd.Env = append(os.Environ(), "CMDLINE_TEST=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := cmdline.Set([]string{"one", "", "a long third argument"}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("/proc/self/cmdline")
	if want := "one\x00\x00a long third argument\x00"; err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
