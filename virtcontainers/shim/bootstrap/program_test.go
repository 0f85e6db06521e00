package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	boot "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
)

func TestParse(t *testing.T) {
	var usage strings.Builder
	got, err := parse([]string{
		"-namespace", "k8s.io", "-address", "/a.sock", "-publish-binary", "/bin/containerd", "-id", "one", "-bundle", "/b",
		"-debug", "-debug-socket", "/c", "start", "more",
	}, &usage)
	want := invocation{
		namespace: "k8s.io", address: "/a.sock", publishBinary: "/bin/containerd", id: "one", bundle: "/b", debug: true, action: "start",
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(invocation{})); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if _, err := parse([]string{"-nonsense"}, &usage); err == nil {
		t.Error("an unknown flag is taken")
	}
	for _, bad := range []invocation{{}, {id: "one"}, {namespace: "a"}, {namespace: "../a", id: "one"}, {namespace: "a", id: ".."}} {
		if bad.check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func writeConfig(t testing.TB, bundle, annotations string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"annotations":`+annotations+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPodOf(t *testing.T) {
	bundle := t.TempDir()
	if got, err := podOf(bundle, "one"); got.Sandbox != "" || err != nil {
		t.Errorf("without a specification: %+v, %v", got, err)
	}
	for annotations, want := range map[string]string{
		`null`: "",
		`{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"one"}`:     "",
		`{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"pod"}`:   "pod",
		`{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.cri-o.SandboxID":"pod"}`: "pod",
		`{"io.kubernetes.cri-o.SandboxID":"pod"}`:                                                 "pod",
		`{"io.kubernetes.docker.type":"podsandbox"}`:                                              "",
	} {
		writeConfig(t, bundle, annotations)
		if got, err := podOf(bundle, "one"); got.Sandbox != want || err != nil {
			t.Errorf("%s: %+v, %v, want %q", annotations, got, err, want)
		}
	}
	writeConfig(t, bundle, `{"io.kubernetes.cri.container-type":"container"}`)
	if _, err := podOf(bundle, "one"); err == nil {
		t.Error("a container of no sandbox is taken")
	}
	writeConfig(t, bundle, `{`)
	if _, err := podOf(bundle, "one"); err == nil {
		t.Error("what is no JSON is taken")
	}
}

// What each containerd makes of an answer.
func TestAnswer(t *testing.T) {
	var raw, announced bytes.Buffer
	if err := answer(&raw, false, "unix:///run/containerd/s/abc"); err != nil || raw.String() != "unix:///run/containerd/s/abc" {
		t.Errorf("%q, %v", raw.String(), err)
	}
	// containerd 2.3 and later try this first, and take a raw address only when
	// that fails.
	if proto.Unmarshal(raw.Bytes(), &boot.BootstrapResult{}) == nil {
		t.Error("the raw address decodes as a message")
	}
	if err := answer(&announced, true, "unix:///a"); err != nil {
		t.Fatal(err)
	}
	var result boot.BootstrapResult
	if err := proto.Unmarshal(announced.Bytes(), &result); err != nil ||
		result.GetVersion() != 3 || result.GetAddress() != "unix:///a" || result.GetProtocol() != "ttrpc" {
		t.Errorf("%+v, %v", &result, err)
	}
}

func stdin(t *testing.T, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestInfo(t *testing.T) {
	p := Program{Version: "1.2", Commit: "abc"}
	options := typed(t, &runtimeoptions.Options{ConfigPath: "/a"})
	var out bytes.Buffer
	if err := p.info(t.Context(), stdin(t, encode(t, options)), &out); err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(out.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	if info.GetName() != "io.containerd.kata.v2" || info.GetVersion().GetVersion() != "1.2" || info.GetVersion().GetRevision() != "abc" ||
		!proto.Equal(info.GetOptions(), options) {
		t.Errorf("%+v", &info)
	}
	var supported features.Features
	if err := json.Unmarshal(info.GetFeatures().GetValue(), &supported); err != nil || len(supported.MountOptions) == 0 {
		t.Errorf("%v: %s", err, info.GetFeatures().GetValue())
	}
	if *supported.Linux.Apparmor.Enabled || *supported.Linux.Selinux.Enabled {
		t.Error("it promises security modules without policies")
	}
	for key, enabled := range map[string]func(*features.Linux) bool{
		"apparmor_policies": func(l *features.Linux) bool { return *l.Apparmor.Enabled && !*l.Selinux.Enabled },
		"selinux_policy":    func(l *features.Linux) bool { return !*l.Apparmor.Enabled && *l.Selinux.Enabled },
	} {
		out.Reset()
		body := fmt.Sprintf("[agent.kata]\n%s = %q\n", key, "/policies")
		options := typed(t, &runtimeoptions.Options{ConfigBody: []byte(body)})
		if err := p.info(t.Context(), stdin(t, encode(t, options)), &out); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(out.Bytes(), &info); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(info.GetFeatures().GetValue(), &supported); err != nil || !enabled(supported.Linux) {
			t.Errorf("with %s: %v: %s", key, err, info.GetFeatures().GetValue())
		}
	}
	out.Reset()
	if err := p.info(t.Context(), stdin(t, nil), &out); err != nil || out.Len() == 0 {
		t.Errorf("without options: %v", err)
	}
	if err := p.info(t.Context(), stdin(t, []byte("nonsense")), &out); err == nil {
		t.Error("nonsense is taken for options")
	}
}

func deleteOf(t *testing.T, p Program, inv invocation) (*task.DeleteResponse, string) {
	t.Helper()
	var out, warnings bytes.Buffer
	if err := p.delete(t.Context(), inv, &out, &warnings); err != nil {
		t.Fatal(err)
	}
	var response task.DeleteResponse
	if err := proto.Unmarshal(out.Bytes(), &response); err != nil {
		t.Fatal(err)
	}
	if response.GetExitedAt() == nil {
		t.Error("no time of the end")
	}
	return &response, warnings.String()
}

func saveState(t *testing.T, p Program, id, sandbox string, change func(*store.State)) {
	t.Helper()
	states, err := store.Open(p.stateRoot("k8s.io"))
	if err != nil {
		t.Fatal(err)
	}
	entry, err := states.Reserve(id)
	if err != nil {
		t.Fatal(err)
	}
	state := store.State{
		ID: id, SandboxID: sandbox, Status: virtcontainers.StatusRunning,
		SupervisorPID: 1 << 22, SupervisorStartTime: 1, StandInPID: 1 << 22, StandInStartTime: 1,
	}
	if change != nil {
		change(&state)
	}
	if err := entry.Save(state); err != nil {
		t.Fatal(err)
	}
}

func TestDelete(t *testing.T) {
	p := Program{Root: filepath.Join(t.TempDir(), "state")}
	bundle := t.TempDir()
	inv := invocation{namespace: "k8s.io", id: "one", bundle: bundle}
	socket := filepath.Join(shortDir(t), "socket")
	left, err := listen(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	left.Close()
	if err := writeAddress(bundle, scheme+socket); err != nil {
		t.Fatal(err)
	}
	saveState(t, p, "one", "one", nil)
	for i, pid := range []uint32{1 << 22, 0} { // the second time nothing is known any more
		response, warnings := deleteOf(t, p, inv)
		if response.GetExitStatus() != 137 || response.GetPid() != pid || warnings != "" {
			t.Errorf("time %d: %v, warnings %q", i+1, response, warnings)
		}
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left")
	}
	if left, _ := os.ReadDir(p.stateRoot("k8s.io")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	saveState(t, p, "one", "one", func(s *store.State) { s.Status, s.ExitCode = virtcontainers.StatusStopped, 3 })
	if response, _ := deleteOf(t, p, inv); response.GetExitStatus() != 3 {
		t.Errorf("of a container that had ended: %v", response)
	}
}

// Older containerds call delete after an orderly end too: a pod that goes on is
// left alone.
func TestDeleteLeavesLivingPod(t *testing.T) {
	p := Program{Root: filepath.Join(t.TempDir(), "state")}
	start, err := store.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	alive := func(s *store.State) { s.SupervisorPID, s.SupervisorStartTime = os.Getpid(), start }
	saveState(t, p, "pod", "pod", func(s *store.State) { alive(s); s.Deleted = true })
	saveState(t, p, "other", "pod", alive)
	if _, warnings := deleteOf(t, p, invocation{namespace: "k8s.io", id: "pod", bundle: t.TempDir()}); warnings != "" {
		t.Errorf("%q", warnings)
	}
	_, warnings := deleteOf(t, p, invocation{namespace: "k8s.io", id: "other", bundle: t.TempDir()})
	if !strings.Contains(warnings, "does not delete it") {
		t.Errorf("%q", warnings)
	}
	if left, _ := os.ReadDir(p.stateRoot("k8s.io")); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}
