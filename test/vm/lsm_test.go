//go:build vm

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// profiles are two, of which only the first leaves containers a file.
const profiles = `
profile kata-open flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  ptrace,
}
profile kata-closed flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  ptrace,
  deny /etc/secret rwklx,
  deny /volume/** w,
}
`

// compileProfiles makes a directory with compiled policies, as the documentation says.
func compileProfiles(h *harness.Host, source string) string {
	h.T.Helper()
	file, dir := h.File("profiles"), h.File("policies")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		h.T.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.T.Fatal(err)
	}
	const features = "/etc/apparmor.d/abi/3.0"
	command := exec.CommandContext(h.T.Context(), "apparmor_parser", "--skip-kernel-load", "--skip-cache", "--kernel-features", features, "--policy-features", features,
		"-o", filepath.Join(dir, "profiles.bin"), file)
	if out, err := command.CombinedOutput(); err != nil {
		h.T.Fatalf("%s: %v\n%s", command, err, out)
	}
	return dir
}

// securityKernels are those that run AppArmor and SELinux: Debian's, and where there is
// more time the profile lsm of kernel-config.
func securityKernels(t *testing.T) map[string]assets {
	kernels := map[string]assets{"debian": debianAssets(t)}
	if os.Getenv(manyVariable) != "" {
		built := builtAssets(t)
		built.kernel = filepath.Join(filepath.Dir(built.kernel), "lsm", "vmlinux")
		kernels["lsm"] = built
	}
	return kernels
}

// TestAppArmor: where the configuration has policies, containers and the processes that
// are added have the profiles that they ask for, and no other.
func TestAppArmor(t *testing.T) {
	for name, a := range securityKernels(t) {
		t.Run(name, func(t *testing.T) { testAppArmor(t, a) })
	}
}

func testAppArmor(t *testing.T, a assets) {
	t.Helper()
	h := harness.New(t)
	configure(h, fmt.Sprintf("hypervisor.kernel = %q", a.kernel), fmt.Sprintf("hypervisor.initrd = %q", a.initrd),
		fmt.Sprintf("agent.kata.apparmor_policies = %q", compileProfiles(h, profiles)))
	spec := sandbox(bundle.Spec("/bin/sleep", "100000"))
	spec.Process.ApparmorProfile = "kata-closed"
	dir := h.Bundle(spec)
	if err := os.WriteFile(filepath.Join(dir, "rootfs", "etc", "secret"), []byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := detachBundle(h, dir)

	const script = "cat /proc/self/attr/current; cat /etc/secret 2>&1; ls /sys/kernel/security"
	for _, test := range []struct {
		flags []string
		want  string
	}{
		{nil, "kata-closed (enforce)\ncat: can't open '/etc/secret': Permission denied\n"},
		{[]string{"--apparmor", "kata-open"}, "kata-open (enforce)\nsecret\n"},
		{[]string{"--apparmor", "unconfined"}, "unconfined\nsecret\n"},
	} {
		args := append(append([]string{"exec"}, test.flags...), pod.id, "/bin/sh", "-c", script)
		if got := h.Run(args...); got.Stdout != test.want {
			t.Errorf("%q: %q, want %q (standard error %q)", test.flags, got.Stdout, test.want, got.Stderr)
		}
	}
	const refused = "apparmor failed to apply profile: write" // runc's words
	result := h.Run("exec", "--apparmor", "absent", pod.id, "/bin/true")
	if result.Code != 255 || !strings.Contains(result.Stderr, refused) {
		t.Errorf("exec with a profile that is not loaded: %d, %q", result.Code, result.Stderr)
	}
	absent := bundle.Spec("/bin/true")
	absent.Process.ApparmorProfile = "absent"
	result = h.Run("run", "-b", h.Bundle(member(absent, pod, podNamespaces()...)), h.ID())
	if result.Code == 0 || !strings.Contains(result.Stderr, refused) {
		t.Errorf("a container with a profile that is not loaded: %d, %q", result.Code, result.Stderr)
	}
	// A member without one is confined by none.
	result = h.Run("run", "-b", h.Bundle(member(bundle.Spec("/bin/cat", "/proc/self/attr/current"), pod, podNamespaces()...)), h.ID())
	if result.Stdout != "unconfined\n" {
		t.Errorf("a container without a profile: %q %q", result.Stdout, result.Stderr)
	}
	h.Must("delete", "--force", pod.id)
}

// TestSELinux: the same of SELinux, which the kernels run where they are told to.
func TestSELinux(t *testing.T) {
	for name, a := range securityKernels(t) {
		t.Run(name, func(t *testing.T) { testSELinux(t, a) })
	}
}

func testSELinux(t *testing.T, a assets) {
	t.Helper()
	h := harness.New(t)
	policy := h.File("policy.33")
	command := exec.CommandContext(t.Context(), "checkpolicy", "-M", "-c", "33", "-U", "allow", "-o", policy, filepath.Join("testdata", "selinux", "policy.conf"))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	configure(h, fmt.Sprintf("hypervisor.kernel = %q", a.kernel), fmt.Sprintf("hypervisor.initrd = %q", a.initrd), `hypervisor.kernel_params = "lsm=selinux"`,
		fmt.Sprintf("agent.kata.selinux_policy = %q", policy))
	const label = "system_u:system_r:container_t:s0"
	spec := sandbox(bundle.Spec("/bin/sleep", "100000"))
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = label, "system_u:object_r:closed_t:s0"
	pod := detachBundle(h, h.Bundle(spec))

	const script = "tr -d '\\0' </proc/self/attr/current; echo; echo >/dev/shm/x && echo made"
	if got := h.Run("exec", pod.id, "/bin/sh", "-c", script); got.Stdout != label+"\n" || !strings.Contains(got.Stderr, "can't create /dev/shm/x: Permission denied") {
		t.Errorf("with the container's label: %q, %q", got.Stdout, got.Stderr)
	}
	const other = "system_u:system_r:kernel_t:s0"
	if got := h.Run("exec", "--process-label", other, pod.id, "/bin/sh", "-c", script); got.Stdout != other+"\nmade\n" {
		t.Errorf("with a label of its own: %q, %q", got.Stdout, got.Stderr)
	}
	unknown := bundle.Spec("/bin/true")
	unknown.Process.SelinuxLabel = "system_u:system_r:unknown_t:s0"
	result := h.Run("run", "-b", h.Bundle(member(unknown, pod, podNamespaces()...)), h.ID())
	if result.Code == 0 || !strings.Contains(result.Stderr, "invalid argument") {
		t.Errorf("a container with a label that the policy does not know: %d, %q", result.Code, result.Stderr)
	}
	h.Must("delete", "--force", pod.id)
}
