//go:build inguest

package inside

import (
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// The share that package guesttest serves.
const (
	shareTag  = "shared"
	manyBytes = "175000" // 25,000 files of 7 bytes
)

func TestReadMoreFilesThanTheServerCanKeep(t *testing.T) {
	a := startAgent(t)
	a.mountShare(t)
	spec := newSpec(t, "sh", "-c", "find /many -type f | xargs cat | wc -c")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/many", Type: "bind", Source: protocol.ShareMountPoint + "/files", Options: []string{"rbind", "ro"}})
	exit, s := a.run("many", spec)
	if exit.GetExitCode() != 0 || s.stderr.Len() > 0 || strings.TrimSpace(s.stdout.String()) != manyBytes {
		t.Fatalf("exit %v, stdout %q, stderr %.500q", exit, s.stdout.String(), s.stderr.String())
	}
	slab, _ := os.ReadFile("/proc/slabinfo")
	for line := range strings.Lines(string(slab)) {
		if strings.HasPrefix(line, "fuse_inode") {
			t.Log(line)
		}
	}
}

func (a *agent) mountShare(t *testing.T) {
	t.Helper()
	_, err := a.client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{
		SandboxId: "pod", Hostname: "pod",
		Shares: []*protocol.Share{{Tag: shareTag, Fstype: "virtiofs", MountPoint: protocol.ShareMountPoint}},
	})
	if err != nil {
		t.Fatal(err)
	}
}
