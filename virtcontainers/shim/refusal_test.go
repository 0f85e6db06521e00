package shim_test

import (
	"strings"
	"sync"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"kata-runtime/virtcontainers/shim"
	"kata-runtime/virtcontainers/shim/bootstrap"
)

// generalOptions are containerd's for any runtime.
func generalOptions(t *testing.T, options *runtimeoptions.Options) *anypb.Any {
	t.Helper()
	wrapped, err := anypb.New(options)
	if err != nil {
		t.Fatal(err)
	}
	wrapped.TypeUrl = "runtimeoptions.v1.Options"
	return wrapped
}

// A pod that cannot be as its first container asks is refused with a code by which
// containerd knows whose fault it is, before anything is made.
func TestPodRefusals(t *testing.T) {
	options := func(text string) func(*taskapi.CreateTaskRequest) {
		return func(r *taskapi.CreateTaskRequest) {
			r.Options = generalOptions(t, &runtimeoptions.Options{ConfigBody: []byte(text)})
		}
	}
	same := func(*taskapi.CreateTaskRequest) {}
	annotated := func(key, value string) func(*specs.Spec) {
		return func(spec *specs.Spec) { spec.Annotations = map[string]string{key: value} }
	}
	for name, c := range map[string]struct {
		request func(*taskapi.CreateTaskRequest)
		spec    func(*specs.Spec)
		code    codes.Code
		text    string
	}{
		"a configuration that is none": {options("{"), declared, codes.InvalidArgument, "ConfigBody is no TOML"},
		"an unknown key of it":         {options("[hypervisor]\ncolour = 'red'\n"), declared, codes.InvalidArgument, "colour"},
		"a wrong value of it":          {options("[hypervisor]\ndefault_vcpus = -7\n"), declared, codes.InvalidArgument, "default_vcpus"},
		"an option's value":            {options("SystemdCgroup = 3"), declared, codes.InvalidArgument, "SystemdCgroup"},
		"a configuration that is not there": {func(r *taskapi.CreateTaskRequest) {
			r.Options = generalOptions(t, &runtimeoptions.Options{ConfigPath: "/nowhere/configuration.toml"})
		}, declared, codes.InvalidArgument, "/nowhere/configuration.toml"},
		"an unknown annotation":         {same, annotated("io.katacontainers.config.hypervisor.colour", "red"), codes.InvalidArgument, "hypervisor.colour"},
		"an annotation that is refused": {same, annotated("io.katacontainers.config.hypervisor.default_vcpus", "2"), codes.InvalidArgument, "enable_annotations"},
		"an annotation of a pod":        {same, annotated("io.kubernetes.cri.container-type", "pod"), codes.InvalidArgument, "container-type"},
		"the host's network": {same, func(spec *specs.Spec) {
			spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
		}, codes.InvalidArgument, "host_network"},
		"a device of the host": {same, func(spec *specs.Spec) {
			spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/nvidia0", Type: "c", Major: 195}}
		}, codes.InvalidArgument, "195:0"},
		"a bind mount of nothing": {same, func(spec *specs.Spec) {
			spec.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: "/nowhere", Options: []string{"bind"}}}
		}, codes.InvalidArgument, "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t)
			request := f.request("c1", c.spec)
			c.request(request)
			_, err := f.Create(f.ctx(), request)
			refused(t, err, c.code, c.text)
			f.nothingOnHost()
			f.told()
			f.run("c1") // it can be made as it should be
		})
	}
}

// containerd's options can be the configuration.
func TestConfigurationInOptions(t *testing.T) {
	f := serve(t)
	request := f.request("c1")
	request.Options = generalOptions(t, &runtimeoptions.Options{ConfigBody: []byte(
		"SystemdCgroup = false\n[hypervisor]\nkernel = \"/mine\"\ninitrd = \"/initrd\"\n[runtime]\ninternetworking_model = \"none\"\n")})
	if _, err := f.Create(f.ctx(), request); err != nil {
		t.Fatal(err)
	}
	if f.kernel != "/mine" {
		t.Errorf("the guest's kernel is %q", f.kernel)
	}
}

// A sandbox, which has the options of the shim alone, is not made from others when
// they were wrong.
func TestOptionsOfTheShim(t *testing.T) {
	_, err := shim.LoadConfig(t.Context(), bootstrap.RuntimeOptions{Invalid: "no absolute path"})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "no absolute path") {
		t.Errorf("%v", err)
	}
}

// A containerd that is not there takes no events, and keeps nothing from going on. It
// gets them when it is back.
func TestNobodyTakesEvents(t *testing.T) {
	f := serve(t)
	f.leave()
	f.run("c1")
	if _, err := f.Kill(f.ctx(), &taskapi.KillRequest{ID: "c1", Signal: 9}); err != nil {
		t.Error(err)
	}
	f.wait("c1", "", 137)
	f.remove("c1", "")
	f.nothingOnHost()
	f.leave = sync.OnceFunc(f.serveEvents())
	f.told("create c1", "start c1", "exit c1/c1 137", "delete c1")
}
