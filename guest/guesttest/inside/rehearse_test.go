//go:build inguest

package inside

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata-runtime/guest/protocol"
)

// A container that nobody has asked for leaves nothing, and there is none once there
// is a pod.
func TestRehearse(t *testing.T) {
	a := startAgent(t)
	list := func() map[string]bool {
		found := map[string]bool{}
		for _, dir := range []string{"/sys/fs/cgroup/kata", filepath.Join(filepath.Dir(a.streams), "state"), "/proc/sys/fs/mqueue"} {
			entries, err := os.ReadDir(dir)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			for _, entry := range entries {
				found[filepath.Join(dir, entry.Name())] = true
			}
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		found[string(mounts)] = true
		return found
	}
	before := list()
	for range 2 {
		if _, err := a.client.Rehearse(t.Context(), &protocol.Empty{}); err != nil {
			t.Fatal(err)
		}
		for entry := range list() {
			if !before[entry] {
				t.Errorf("there is now %s", entry)
			}
		}
	}
	if _, err := a.client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "pod", Hostname: "h"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.client.Rehearse(t.Context(), &protocol.Empty{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with a pod: %v", err)
	}
	if _, s := a.run("rehearsal", newSpec(t, "echo", "played")); s.stdout.String() != "played\n" {
		t.Errorf("a container of the same name says %q, %q", s.stdout.String(), s.stderr.String())
	}
}
