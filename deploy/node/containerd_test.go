package node

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"kata-runtime/test/harness"
)

// TestRealContainerd lets real programs say what they make of the result:
// Debian's containerd 1.6, and the containerd 2 that `make containerd` makes.
func TestRealContainerd(t *testing.T) {
	one, _ := exec.LookPath("containerd")
	for major, program := range map[string]string{"1": one, "2": filepath.Join(harness.Repository(t), "build", "containerd", "containerd")} {
		t.Run(major, func(t *testing.T) {
			output, err := exec.Command(program, "--version").Output()
			if err != nil {
				t.Skipf("no containerd %s (make deps-test containerd): %v", major, err)
			}
			found, _, err := containerdVersion(string(output))
			if err != nil || major != string(rune('0'+found)) {
				t.Skipf("%s is another version: %s %v", program, output, err)
			}
			for name, test := range map[string]struct {
				majors string // that take it
				files  map[string]string
				want   string // the error
			}{
				"version 2":           {"1 2", map[string]string{configPath: config2}, ""},
				"version 3":           {"2", map[string]string{configPath: config3}, ""},
				"version 4":           {"2", map[string]string{configPath: strings.Replace(config3, "version = 3", "version = 4", 1)}, ""},
				"version 2, imports":  {"2", map[string]string{configPath: "imports = ['conf.d/*.toml']\n" + config2}, ""},
				"version 3, imports":  {"2", map[string]string{configPath: configImports}, ""},
				"version 4, imports":  {"2", map[string]string{configPath: strings.Replace(configImports, "version = 3", "version = 4", 1)}, ""},
				"no file":             {"1 2", nil, ""},
				"no runtimes":         {"1 2", map[string]string{configPath: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\n"}, ""},
				"an import of others": {"1", map[string]string{configPath: "imports = ['ROOT/etc/containerd/conf.d/*.toml']\n" + config2, "etc/containerd/conf.d/a.toml": "version = 2\nroot = '/x'\n"}, ""},
				"an import replaces it": {"1", map[string]string{configPath: "imports = ['ROOT/etc/containerd/conf.d/*.toml']\n" + config2, "etc/containerd/conf.d/a.toml": "version = 2\n" +
					"[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'x'\n"}, "does not see the runtime kata"},
				"inline tables": {"1 2", map[string]string{configPath: "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\n" +
					"runtimes = {runc = {runtime_type = 'io.containerd.runc.v2'}}\n"}, "by hand"},
			} {
				if !strings.Contains(test.majors, major) {
					continue
				}
				for _, frontEnd := range []FrontEnd{FrontEndOCI, FrontEndShim} {
					t.Run(name+" "+string(frontEnd), func(t *testing.T) {
						testRealContainerd(t, program, test.files, frontEnd, test.want)
					})
				}
			}
		})
	}
}

func testRealContainerd(t *testing.T, program string, files map[string]string, frontEnd FrontEnd, want string) {
	w := newWorld(t, "in the test's own root directory", files)
	write(t, w.payload, map[string]string{"bin/" + shimProgram: "shim"})
	w.options.Handler.FrontEnd = frontEnd
	w.options.Run = func(ctx context.Context, name string, args ...string) ([]byte, error) {
		if filepath.Base(name) != "containerd" {
			return w.run(ctx, name, args...)
		}
		if args[0] == "--config" {
			args[1] = filepath.Join(w.root, args[1])
		}
		return runIn("/")(ctx, program, args...)
	}
	before := w.state(t)
	_, found := files[configPath]
	node := containerd{run: w.options.Run, program: "containerd", config: "/" + configPath, found: found}
	original, err := node.dump(t.Context(), "/"+configPath)
	if err != nil {
		t.Fatal(err)
	}
	err = Install(t.Context(), w.options)
	switch {
	case want == "" && err == nil:
		w.checkReal(t, &node, original)
	case err == nil || !strings.Contains(err.Error(), want) || want == "":
		t.Errorf("%v, want %q", err, want)
	}
	w.remove(t)
	sameState(t, "removed", w.state(t), before)
	if _, err := os.Stat(filepath.Join(w.root, receiptDir)); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// checkReal compares what containerd makes of the configuration with the one before.
func (w *world) checkReal(t *testing.T, node *containerd, original *dump) {
	t.Helper()
	node.found = true
	changed, err := node.dump(t.Context(), "/"+configPath)
	if err != nil {
		t.Fatal(err)
	}
	state := w.state(t)
	w.install(t)
	sameState(t, "a second installation", w.state(t), state)
	kata := at(changed.runtimes, "kata")
	systemd, _ := at(kata, "options")["SystemdCgroup"].(bool)
	switch {
	case kata["runtime_type"] != w.options.Handler.runtimeType(), at(changed.runtimes, "runc")["runtime_type"] != runcType,
		w.options.Handler.FrontEnd == FrontEndOCI && (at(kata, "options")["BinaryName"] != "/usr/local/bin/kata-runtime" || systemd != original.systemdCgroup()):
		t.Errorf("the runtimes are %v", changed.runtimes)
	}
	for name, was := range original.values {
		if is := changed.values[name]; !strings.Contains(name, `"kata"`) && name != `"imports"` && !reflect.DeepEqual(is, was) {
			t.Errorf("%s was %v and is %v", name, was, is)
		}
	}
}
