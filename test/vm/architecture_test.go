//go:build vm

package vm

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// foreignBundle is a bundle whose busybox is Debian's for arm64.
func foreignBundle(h *harness.Host, spec *specs.Spec) string {
	h.T.Helper()
	dir := h.Bundle(spec)
	program, err := os.Open(filepath.Join(harness.Repository(h.T), "build", "arm64", "busybox"))
	if err != nil {
		h.T.Fatalf("%v: run make build/arm64/busybox first", err)
	}
	defer program.Close()
	target, err := os.OpenFile(filepath.Join(dir, "rootfs", "bin", "busybox"), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		h.T.Fatal(err)
	}
	defer target.Close()
	if _, err := io.Copy(target, program); err != nil {
		h.T.Fatal(err)
	}
	return dir
}

// TestArchitecture: a pod whose first container is for arm64 has a machine of arm64,
// where files, limits, filters and processes are as in any other, and a container for
// the host's architecture is refused.
func TestArchitecture(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Fatalf("this test is for hosts of amd64, not %s", runtime.GOARCH)
	}
	h := harness.New(t)
	volume := memory(h, "volume", "")
	spec := sandbox(bundle.Spec("sleep", "100000")) // found by PATH, a link to the program
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"bind"}})
	// As container managers make it on this host.
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno}},
	}
	limit := int64(64 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	newLoop(h, "disk").give(spec, "/dev/disk", "rw") // plugged into the running machine
	pod := detachBundle(h, foreignBundle(h, spec))

	for _, fact := range []struct{ script, want string }{
		{"uname -m", "aarch64\n"},
		{"grep -c '^CPU implementer' /proc/cpuinfo", "1\n"},
		{"cat /sys/fs/cgroup/memory.max", "67108864\n"},
		{"awk '/^Seccomp:/ {print $2}' /proc/self/status", "2\n"},
		{"cat </dev/null; hostname x 2>&1", "hostname: sethostname: Operation not permitted\n"},
		// O_DIRECT has another value here than on the host.
		{"dd if=/bin/busybox of=/volume/copy bs=64k iflag=direct oflag=direct 2>/dev/null; cmp /bin/busybox /volume/copy && echo same", "same\n"},
		{"mkdir /volume/dir && ls -d /volume/dir/ && ln -s nowhere /volume/link && cat /volume/link 2>&1", "/volume/dir/\ncat: can't open '/volume/link': No such file or directory\n"},
		{"head -n 1 /dev/disk; blockdev --getsize64 /dev/disk", "disk\n1048576\n"},
		{"cat /volume/of-host", "of the host\n"},
	} {
		if strings.Contains(fact.script, "of-host") {
			if err := os.WriteFile(filepath.Join(volume, "of-host"), []byte("of the host\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.Run("exec", pod.id, "/bin/sh", "-c", fact.script); got.Stdout != fact.want {
			t.Errorf("%s: %q, want %q (standard error %q)", fact.script, got.Stdout, fact.want, got.Stderr)
		}
	}
	wantCode(t, h.Run("exec", pod.id, "/bin/sh", "-c", "exit 7"), 7)

	result := h.Run("run", "-b", h.Bundle(member(bundle.Spec("/bin/true"), pod, podNamespaces()...)), h.ID())
	if result.Code == 0 || !strings.Contains(result.Stderr, "the container is for amd64 (the program /bin/true), and the pod's machine is of arm64") {
		t.Errorf("a container for amd64 in the same pod: %d, %q", result.Code, result.Stderr)
	}
	wantCode(t, h.Run("run", "-b", foreignBundle(h, member(bundle.Spec("/bin/true"), pod, podNamespaces()...)), h.ID()), 0)
	h.Must("delete", "--force", pod.id)

	// Of one that nothing was built for, nothing is started.
	configure(h, `hypervisor.architecture = "amd64"`)
	result = h.Run("run", "-b", foreignBundle(h, bundle.Spec("/bin/true")), h.ID())
	if result.Code == 0 || !strings.Contains(result.Stderr, `architecture = "amd64" in [hypervisor]`) {
		t.Errorf("arm64 where amd64 is configured: %d, %q", result.Code, result.Stderr)
	}
}
