//go:build inguest

package inside

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// join gives the specification another container's namespaces, or the pod's.
func join(spec *specs.Spec, paths map[specs.LinuxNamespaceType]string) *specs.Spec {
	for i, ns := range spec.Linux.Namespaces {
		spec.Linux.Namespaces[i].Path = paths[ns.Type]
	}
	return spec
}

// Three containers: the first has the pod's namespaces, the second joins those
// of the first, the third has namespaces of its own.
func TestNamespacesOfAPod(t *testing.T) {
	a := startAgent(t)
	if _, err := a.client.CreateSandbox(t.Context(), &protocol.CreateSandboxRequest{SandboxId: "pod", Hostname: "early"}); err != nil {
		t.Fatal(err)
	}
	pod := map[specs.LinuxNamespaceType]string{
		specs.IPCNamespace: protocol.SandboxNamespace, specs.UTSNamespace: protocol.SandboxNamespace,
	}
	first := join(newSpec(t, "sleep", "1000"), pod)
	first.Hostname = ""
	if _, err := a.create("first", first, false); err != nil {
		t.Fatal(err)
	}
	a.start("first")
	const script = "hostname; tr '\\0' ' ' < /proc/1/cmdline; echo; for n in pid ipc uts; do readlink /proc/self/ns/$n; done"
	theirs := map[specs.LinuxNamespaceType]string{}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		theirs[kind] = protocol.ContainerNamespace("first")
	}
	second := join(newSpec(t, "sh", "-c", script), theirs)
	second.Hostname = ""
	_, s := a.run("second", second)
	joined := strings.Split(s.stdout.String(), "\n")
	if joined[0] != "early" || !strings.HasPrefix(joined[1], "sleep 1000") {
		t.Errorf("joined container sees %q, %s", joined, s.stderr.String())
	}
	_, s = a.run("third", newSpec(t, "sh", "-c", script))
	own := strings.Split(s.stdout.String(), "\n")
	if own[0] != "inside" || len(own) < 5 || len(joined) < 5 {
		t.Fatalf("a container of its own sees %q", own)
	}
	for i := 2; i < 5; i++ {
		if own[i] == joined[i] {
			t.Errorf("shared without being asked for: %s", own[i])
		}
	}
	// The pod's namespaces outlive the container that had them first.
	a.remove("first")
	third := join(newSpec(t, "sh", "-c", script), pod)
	third.Hostname = "late"
	_, s = a.run("third", third)
	if late := strings.Split(s.stdout.String(), "\n"); late[0] != "late" || late[3] != joined[3] || late[4] != joined[4] {
		t.Errorf("after the first container's end: %q, before %q", late, joined)
	}
	if _, err := a.create("fourth", join(newSpec(t, "true"), theirs), false); err == nil {
		t.Error("a namespace of a container that is gone was joined")
	}
	assertNothingLeft(t)
}

func TestSharedStorage(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	once, kept := filepath.Join(dir, "once"), filepath.Join(dir, "kept")
	create := func(id string) {
		t.Helper()
		document, err := json.Marshal(newSpec(t, "true"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.client.CreateContainer(t.Context(), &protocol.CreateContainerRequest{
			ContainerId: id, SpecJson: document,
			Storages: []*protocol.Storage{
				{Driver: "tmpfs", Options: []string{"size=1m"}, MountPoint: once, Shared: true},
				{Driver: "tmpfs", Options: []string{"size=1m"}, MountPoint: kept, Shared: true, Keep: true},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("one")
	for _, path := range []string{once, kept} {
		if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	create("two")
	a.remove("one")
	for _, path := range []string{once, kept} {
		if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
			t.Errorf("with one of two containers gone: %v", err)
		}
	}
	a.remove("two")
	if _, err := os.Stat(once); err == nil {
		t.Error("the mount point is left without a container")
	}
	if _, err := os.Stat(filepath.Join(kept, "file")); err != nil {
		t.Errorf("what was to be kept: %v", err)
	}
	if err := unix.Unmount(kept, 0); err != nil {
		t.Errorf("unmount what was kept: %v", err)
	}
}
