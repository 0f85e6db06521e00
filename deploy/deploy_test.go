package deploy

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	nodeapi "k8s.io/api/node/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"

	"kata-runtime/deploy/node"
	"kata-runtime/virtcontainers/config"
	"kata-runtime/virtcontainers/machine"
	"kata-runtime/virtcontainers/sizing"
)

func text(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// withoutComments drops the lines that are comments.
func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestManagers: what is there to be copied is what the installer writes, and what
// the documentation shows.
func TestManagers(t *testing.T) {
	handler := node.Handler{Name: node.DefaultHandler, Prefix: node.DefaultPrefix, FrontEnd: node.FrontEndOCI}
	documentation := text(t, "../docs/integration.md")
	for name, want := range map[string]string{
		"containerd-1.toml": "version = 2\n" + handler.Containerd(2),
		"containerd-2.toml": "version = 3\n" + handler.Containerd(3),
		"50-kata.conf":      handler.CRIO(),
	} {
		if got := withoutComments(text(t, name)); got != want {
			t.Errorf("%s is\n%s\nand the installer writes\n%s", name, got, want)
		}
		if !strings.Contains(documentation, "```\n"+want+"```\n") {
			t.Errorf("docs/integration.md shows another configuration than %s:\n%s", name, want)
		}
	}
}

// objects decodes a manifest as the API server does that validates strictly: a
// field that does not exist, or twice, is an error.
func objects(t *testing.T, name string) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(apps.AddToScheme(scheme), core.AddToScheme(scheme), nodeapi.AddToScheme(scheme), rbac.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(text(t, name))))
	defer documents.Close()
	var all []runtime.Object
	buffer := make([]byte, 1<<20)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, object)
	}
	return all
}

// find returns the one object of a type in manifests.
func find[T any](t *testing.T, names ...string) *T {
	t.Helper()
	var found []*T
	for _, name := range names {
		for _, object := range objects(t, name) {
			if object, ok := any(object).(*T); ok {
				found = append(found, object)
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T in %v", len(found), found, names)
	}
	return found[0]
}

// TestStrict decodes every manifest, and sees that a wrong one would be refused.
func TestStrict(t *testing.T) {
	manifests, err := filepath.Glob("*.yaml")
	if err != nil || len(manifests) < 5 {
		t.Fatal(manifests, err)
	}
	readme := text(t, "README.md")
	for _, name := range manifests {
		if len(objects(t, name)) == 0 {
			t.Errorf("%s has no objects", name)
		}
		if !strings.Contains(readme, name) {
			t.Errorf("README.md does not tell of %s", name)
		}
	}
	scheme := runtime.NewScheme()
	if err := core.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	wrong := strings.Replace(text(t, "pod.yaml"), "runtimeClassName", "runtimeClass", 1)
	if _, _, err := decoder.Decode([]byte(wrong), nil, nil); err == nil {
		t.Error("a field that does not exist is taken")
	}
}

// TestClass: the class names the installed handler, waits for the installer's label,
// and counts what the program says that a pod costs.
func TestClass(t *testing.T) {
	class := find[nodeapi.RuntimeClass](t, "runtimeclass.yaml")
	if class.Handler != node.DefaultHandler {
		t.Errorf("its handler is %q, the installed one %q", class.Handler, node.DefaultHandler)
	}
	settings, err := config.Load(t.Context(), "configuration.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := sizing.OverheadOf(settings.Hypervisor.DefaultMemoryMiB, machine.OverheadMiB(false))
	memory, cpu := class.Overhead.PodFixed[core.ResourceMemory], class.Overhead.PodFixed[core.ResourceCPU]
	if memory.Value() != int64(want.MemoryMiB)<<20 || cpu.MilliValue() != int64(want.MilliCPUs) {
		t.Errorf("its overhead is %v and %v, and `node overhead` says %+v", &memory, &cpu, want)
	}
	// As `make bench` prints it: a pod with a few containers, beside its guest's RAM.
	const measured = 160
	if want.MemoryMiB < settings.Hypervisor.DefaultMemoryMiB+measured {
		t.Errorf("%d MiB are less than what was measured", want.MemoryMiB)
	}
	if emulated := sizing.OverheadOf(settings.Hypervisor.DefaultMemoryMiB, machine.OverheadMiB(true)); emulated.MemoryMiB <= want.MemoryMiB {
		t.Errorf("without hardware virtualization it is %d MiB, not more than %d", emulated.MemoryMiB, want.MemoryMiB)
	}
	for key, value := range class.Scheduling.NodeSelector {
		label := key + "=" + value
		for _, name := range []string{"install.yaml", "remove.yaml"} {
			if args := find[apps.DaemonSet](t, name).Spec.Template.Spec.InitContainers[0].Args; !slices.Contains(args, "--label="+label) {
				t.Errorf("%s does not set %s: %v", name, label, args)
			}
		}
		if !strings.Contains(text(t, "README.md"), label+"\n") {
			t.Errorf("README.md does not say to label nodes with %s", label)
		}
	}
	for _, problem := range validation.IsDNS1123Label(class.Name) {
		t.Error(problem)
	}
	if pod := find[core.Pod](t, "pod.yaml"); pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName != class.Name {
		t.Error("pod.yaml is of another class")
	}
	deployment := find[apps.Deployment](t, "deployment.yaml")
	if name := deployment.Spec.Template.Spec.RuntimeClassName; name == nil || *name != class.Name {
		t.Error("deployment.yaml is of another class")
	}
	service := find[core.Service](t, "deployment.yaml")
	for key, value := range service.Spec.Selector {
		if deployment.Spec.Template.Labels[key] != value || deployment.Spec.Selector.MatchLabels[key] != value {
			t.Errorf("deployment.yaml: %s=%s selects nothing", key, value)
		}
	}
}

// made is a variable of the Makefile.
func made(t *testing.T, name string) string {
	t.Helper()
	command := exec.Command("make", "-s", "-f", "-", "value")
	command.Dir = ".."
	command.Stdin = strings.NewReader("include Makefile\nvalue:\n\t@printf %s '$(" + name + ")'\n")
	output, err := command.Output()
	if err != nil {
		t.Fatalf("make: %v %s", err, output)
	}
	return string(output)
}

// TestDaemonSets: they run the image that `make deploy-image` writes, by options that
// the program has, and the pods that stay have no rights.
func TestDaemonSets(t *testing.T) {
	image := made(t, "NODE_IMAGE")
	if !strings.HasSuffix(image, ":"+made(t, "VERSION")) {
		t.Fatalf("the image is %q", image)
	}
	if got := made(t, "PREFIX"); got != node.DefaultPrefix {
		t.Errorf("make install's prefix is %s, the installer's %s", got, node.DefaultPrefix)
	}
	account := find[core.ServiceAccount](t, "install.yaml")
	namespace := find[core.Namespace](t, "install.yaml")
	binding := find[rbac.ClusterRoleBinding](t, "install.yaml")
	role := find[rbac.ClusterRole](t, "install.yaml")
	if binding.RoleRef.Name != role.Name || binding.Subjects[0].Name != account.Name || binding.Subjects[0].Namespace != namespace.Name {
		t.Errorf("the binding is %+v", binding)
	}
	for name, verb := range map[string]string{"install.yaml": "install", "remove.yaml": "remove"} {
		set := find[apps.DaemonSet](t, name)
		pod := set.Spec.Template.Spec
		if set.Namespace != namespace.Name || account.Namespace != namespace.Name || pod.ServiceAccountName != account.Name {
			t.Errorf("%s: another namespace or account", name)
		}
		for key, value := range set.Spec.Selector.MatchLabels {
			if set.Spec.Template.Labels[key] != value {
				t.Errorf("%s: %s=%s selects nothing", name, key, value)
			}
		}
		work, stays := pod.InitContainers[0], pod.Containers[0]
		if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 || work.Image != image || stays.Image != image {
			t.Errorf("%s: images are %s and %s, made is %s", name, work.Image, stays.Image, image)
		}
		if !slices.Equal(work.Args[:2], []string{"node", verb}) || !slices.Equal(stays.Args, []string{"node", "pause"}) {
			t.Errorf("%s: %v, %v", name, work.Args, stays.Args)
		}
		mounts := map[string]string{}
		for _, mount := range work.VolumeMounts {
			mounts[mount.Name] = mount.MountPath
		}
		if !slices.Contains(work.Args, "--host="+mounts["host"]) || mounts["identity"] != "/var/run/secrets/kubernetes.io/serviceaccount" {
			t.Errorf("%s: mounts are %v", name, mounts)
		}
		if !*work.SecurityContext.Privileged || len(stays.VolumeMounts) != 0 || *stays.SecurityContext.AllowPrivilegeEscalation ||
			*pod.AutomountServiceAccountToken || pod.HostPID || pod.HostNetwork {
			t.Errorf("%s: rights that are not needed, or too few", name)
		}
	}
}
